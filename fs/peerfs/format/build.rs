// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Generates the Cap'n Proto readers and builders (the kernel's build does the same by itself).

fn main() {
    println!("cargo:rerun-if-changed=peerfs.capnp");
    capnpc::CompilerCommand::new()
        .file("peerfs.capnp")
        .run()
        .expect("compiling peerfs.capnp (is the capnproto package installed?)");
}
