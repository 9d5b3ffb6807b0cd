# SPDX-License-Identifier: GPL-2.0
#
# The front door. Each target is a script of the same name in scripts/, which does its own set-up;
# everything built lies in a folder outside the checkout (PEERFS_CACHE, by default ~/.cache/peerfs).

MAKEFLAGS += --no-print-directory
prefix ?= /usr/local

.PHONY: help demo demo-diskless test test-emulated check soak book bench bench-containers bench-fuse bench-images bench-kernel bench-scheduler bench-swarm userspace modules kernel graft dkms deb test-deb rust-project install clean distclean

help:
	@echo 'peerfs: mount an image that this machine does not have yet'
	@echo
	@echo '  make demo           two machines in QEMU: one mounts what only the other has'
	@echo '  make demo-diskless  a machine without a disk boots Debian from an image that an HTTP server has'
	@echo '  make test           every test; under an hour from nothing, minutes after that'
	@echo '  make test-emulated  the tests of userspace, for another architecture (ARCH=arm64), through QEMU'
	@echo '  make check          format, lints, documentation and licences only'
	@echo '  make soak           whatever looks for faults at random, for some two hours'
	@echo '  make book           the documentation as a book in HTML, whose links are checked'
	@echo '  make bench          how fast images are built, against EROFS, and the demo'\''s first command'
	@echo '  make bench-images   what images take to make, update, import and extract, against other tools'
	@echo '  make bench-kernel   how fast they are read, against EROFS, squashfs and ext4 in one guest'
	@echo '  make bench-scheduler  what it takes to decide whom to ask, with up to 500 sources'
	@echo '  make bench-swarm    how soon many nodes have an image, and what its source sends; in namespaces, as root'
	@echo '  make bench-containers  how soon a container has started whose image is not here, by containerd; as root'
	@echo '  make bench-fuse     mounts through FUSE beside squashfuse; as root'
	@echo
	@echo '  make userspace      peerfs, peerfsd and mount.peerfs'
	@echo '  make modules        the kernel module, for the kernel built in KDIR='
	@echo '                      (without KDIR: for Debian'\''s, in which the demo runs)'
	@echo '  make kernel         the kernel of the benchmarks (NAME=uml|lockdep for those of the tests)'
	@echo '  make graft          copy the module into the kernel source tree at TREE='
	@echo '  make dkms           what DKMS builds the module from, in DEST='
	@echo '  make deb            the Debian packages'
	@echo '  make test-deb       installs them in a Debian root and boots that under systemd; as root'
	@echo '  make rust-project   rust-project.json for rust-analyzer (KDIR= as above)'
	@echo '  make install        programs below prefix=$(prefix), and the module of KDIR='
	@echo '  make clean          remove what was built from this checkout'
	@echo '  make distclean      remove the whole cache folder: kernels, tools, downloads'
	@echo
	@echo 'With ARCH=arm64 demo, userspace and modules are for that architecture, which QEMU emulates where it must.'

demo demo-diskless:
	@scripts/setup-packages base
	@scripts/$@

test check soak book bench bench-containers bench-fuse bench-images bench-kernel bench-scheduler bench-swarm:
	@scripts/setup-packages
	@scripts/$@

userspace:
	@scripts/setup-packages base
	@scripts/build-userspace

modules:
	@scripts/setup-packages $(if $(KDIR),all,base)
	@scripts/build-module $(or $(KDIR),debian)

kernel:
	@scripts/setup-packages
	@scripts/build-kernel $(or $(NAME),qemu)

graft:
	@scripts/graft $(or $(TREE),$(error which kernel source tree? make graft TREE=path))

dkms:
	@scripts/setup-packages base
	@scripts/dkms-source $(or $(DEST),$(error which folder? make dkms DEST=/usr/src/peerfs-0.1.0))

deb:
	@scripts/setup-packages deb
	@scripts/deb

test-deb:
	@scripts/setup-packages deb
	@scripts/test-deb $(SUITE)

rust-project:
	@scripts/setup-packages
	@scripts/rust-project $(or $(KDIR),qemu)

install:
	@scripts/install '$(DESTDIR)' '$(prefix)' $(KDIR)

clean distclean:
	@scripts/clean $@
