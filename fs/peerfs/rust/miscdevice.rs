// SPDX-License-Identifier: GPL-2.0

//! Misc character devices that can be polled, which kernel::miscdevice's can't.
//!
//! A device is a stream: no position, and reads and writes may run at the same time.
//!
//! Locking: `misc_mtx` is held while a device is registered, deregistered or opened, so `open` must not do
//! either of the first two. Nothing is held for read, write, poll and ioctl, which run at the same time.
//! `release` is alone: it comes after all of them.

use crate::rust::bindings;
use crate::LocalModule;
use core::marker::PhantomData;
use kernel::{
    error::to_result,
    ffi::{c_int, c_long, c_uint, c_ulong},
    fs::{file::flags, File, LocalFile},
    iov::{IovIterDest, IovIterSource},
    module::this_module,
    prelude::*,
    str::as_char_ptr_in_const_context,
    sync::{aref::ARef, poll::PollTable},
    types::{ForeignOwnable, NotThreadSafe, Opaque},
    uaccess::{UserPtr, UserSlice},
};

/// There is something to read.
pub(crate) const POLL_READABLE: u32 = bindings::POLLIN | bindings::POLLRDNORM;
/// A write does not wait.
pub(crate) const POLL_WRITABLE: u32 = bindings::POLLOUT | bindings::POLLWRNORM;

/// The private data of an open file of a misc device. Methods may be called by many tasks at once;
/// the value is dropped when the last descriptor of the open file is closed.
pub(crate) trait MiscDevice: Send + Sync + Sized + 'static {
    /// What all open files of the device share.
    type Shared: Send + Sync + 'static;

    /// The name in /dev.
    const NAME: &'static CStr;
    /// The permissions of the node in /dev.
    const MODE: u16;

    /// A file was opened.
    fn open(shared: &Self::Shared) -> Result<KBox<Self>>;

    /// read(2) and its kin. With `nonblock`, EAGAIN takes the place of waiting.
    fn read(&self, nonblock: bool, to: &mut IovIterDest<'_>) -> Result<usize>;

    /// write(2) and its kin.
    fn write(&self, from: &mut IovIterSource<'_>) -> Result<usize>;

    /// poll(2) and its kin: registers with all that can change the answer, then answers.
    fn poll(&self, file: &File, table: PollTable<'_>) -> u32;

    /// ioctl(2); arguments must have one layout for 32-bit and 64-bit programs.
    fn ioctl(&self, ioctl: Ioctl<'_>) -> Result;
}

/// An ioctl(2) that is being served. It stays on the caller's task, whose memory and descriptors it
/// gives access to.
pub(crate) struct Ioctl<'a> {
    /// The `_IO...` number.
    pub(crate) command: u32,
    argument: usize,
    _call: PhantomData<&'a File>,
    _task: NotThreadSafe,
}

impl Ioctl<'_> {
    /// Copies what the argument points to; EFAULT if it can't be read.
    pub(crate) fn read<const N: usize>(&self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        UserSlice::new(UserPtr::from_addr(self.argument), N)
            .reader()
            .read_slice(&mut bytes)?;
        Ok(bytes)
    }

    /// Copies to where the argument points to; EFAULT if it can't be written. There must be room for it.
    pub(crate) fn write(&self, bytes: &[u8]) -> Result {
        UserSlice::new(UserPtr::from_addr(self.argument), bytes.len())
            .writer()
            .write_slice(bytes)
    }

    /// The caller's file with this descriptor; EBADF if there is none, or only its path was opened.
    pub(crate) fn fget(&self, descriptor: u32) -> Result<ARef<File>> {
        let file = LocalFile::fget(descriptor).map_err(|_| EBADF)?;
        // SAFETY: This value exists only while its task is in ioctl(2), which uses no `fdget_pos`.
        Ok(unsafe { LocalFile::assume_no_fdget_pos(file) })
    }
}

/// A device in /dev for as long as the value lives. Open files keep the module loaded.
///
/// # Invariants
///
/// `device` is registered. It is the first field, so that its address is that of the registration.
#[pin_data(PinnedDrop)]
#[repr(C)]
pub(crate) struct Registration<T: MiscDevice> {
    #[pin]
    device: Opaque<bindings::miscdevice>,
    shared: T::Shared,
}

// SAFETY: A registration may be ended by another task than the one that made it, and `Shared` is
// `Send`.
unsafe impl<T: MiscDevice> Send for Registration<T> {}

// SAFETY: Besides `shared`, which is `Sync`, a shared reference gives access to nothing.
unsafe impl<T: MiscDevice> Sync for Registration<T> {}

impl<T: MiscDevice> Registration<T> {
    /// Makes the device; files may be opened before this returns.
    pub(crate) fn new(shared: T::Shared) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            // First: `open` reads it, as soon as the device is registered.
            shared,
            // INVARIANT: Registered if this succeeds; otherwise there is no value.
            device <- Opaque::try_ffi_init(|slot: *mut bindings::miscdevice| {
                let device = bindings::miscdevice {
                    minor: bindings::MISC_DYNAMIC_MINOR as c_int,
                    name: as_char_ptr_in_const_context(T::NAME),
                    fops: &Operations::<T>::TABLE,
                    mode: T::MODE,
                    ..pin_init::zeroed()
                };
                // SAFETY: `slot` is valid for writes.
                unsafe { slot.write(device) };
                // SAFETY: `slot` is initialised and pinned, and `drop` deregisters it before it is
                // freed; name and operations are static.
                to_result(unsafe { bindings::misc_register(slot) })
            }),
        }? Error)
    }
}

#[pinned_drop]
impl<T: MiscDevice> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the invariant the device is registered. This waits for an `open` in progress.
        unsafe { bindings::misc_deregister(self.device.get()) };
    }
}

/// The callbacks: they borrow the private data, call the method, and make an errno of its error.
///
/// The kernel calls them with valid pointers; all but `open` only between an `open` of the same file
/// that succeeded and the end of its `release`.
struct Operations<T>(PhantomData<T>);

impl<T: MiscDevice> Operations<T> {
    const TABLE: bindings::file_operations = bindings::file_operations {
        owner: this_module::<LocalModule>().as_ptr(),
        open: Some(Self::open),
        release: Some(Self::release),
        read_iter: Some(Self::read_iter),
        write_iter: Some(Self::write_iter),
        poll: Some(Self::poll),
        unlocked_ioctl: Some(Self::ioctl),
        #[cfg(CONFIG_COMPAT)]
        compat_ioctl: bindings::compat_ptr_ioctl,
        ..pin_init::zeroed()
    };

    /// # Safety
    ///
    /// `file` must be an open file of this device, and not be released for `'a`.
    unsafe fn private<'a>(file: *mut bindings::file) -> &'a T {
        // SAFETY: `open` set the private data by `into_foreign`, and only `release` takes it back.
        unsafe { <KBox<T> as ForeignOwnable>::borrow((*file).private_data) }
    }

    /// # Safety
    ///
    /// `file` must be a file of this device that is being opened.
    unsafe extern "C" fn open(inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: Both belong to the open in progress.
        let result = unsafe { bindings::stream_open(inode, file) };
        if result != 0 {
            return result;
        }
        // SAFETY: misc_open() left the `miscdevice` in the private data. It is the first field of
        // its registration, which can't end before this returns: misc_open() holds misc_mtx, which
        // misc_deregister() takes.
        let registration = unsafe { &*(*file).private_data.cast::<Registration<T>>() };
        match T::open(&registration.shared) {
            Ok(private) => {
                // SAFETY: During open the private data is ours to set.
                unsafe { (*file).private_data = private.into_foreign() };
                0
            }
            Err(error) => error.to_errno(),
        }
    }

    /// # Safety
    ///
    /// `file` must be an open file of this device, which nobody uses any more.
    unsafe extern "C" fn release(_inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: The private data came from `into_foreign`; this is the last call for the file, so
        // nothing borrows it.
        drop(unsafe { <KBox<T> as ForeignOwnable>::from_foreign((*file).private_data) });
        0
    }

    /// # Safety
    ///
    /// `iocb` must be a read of an open file of this device, and `iter` its destination.
    unsafe extern "C" fn read_iter(
        iocb: *mut bindings::kiocb,
        iter: *mut bindings::iov_iter,
    ) -> isize {
        // SAFETY: `iocb` holds the file for the whole call.
        let file = unsafe { (*iocb).ki_filp };
        // SAFETY: As above.
        let private = unsafe { Self::private(file) };
        // SAFETY: As above. A device's file has no position lock that `fdget_pos` could take.
        let flags = unsafe { File::from_raw_file(file) }.flags();
        // SAFETY: The caller lends `iter` for this call, and it is a destination.
        let to = unsafe { IovIterDest::from_raw(iter) };
        match private.read(flags & flags::O_NONBLOCK != 0, to) {
            Ok(count) => count as isize,
            Err(error) => error.to_errno() as isize,
        }
    }

    /// # Safety
    ///
    /// `iocb` must be a write to an open file of this device, and `iter` its source.
    unsafe extern "C" fn write_iter(
        iocb: *mut bindings::kiocb,
        iter: *mut bindings::iov_iter,
    ) -> isize {
        // SAFETY: `iocb` holds the file for the whole call.
        let private = unsafe { Self::private((*iocb).ki_filp) };
        // SAFETY: The caller lends `iter` for this call, and it is a source.
        let from = unsafe { IovIterSource::from_raw(iter) };
        match private.write(from) {
            Ok(count) => count as isize,
            Err(error) => error.to_errno() as isize,
        }
    }

    /// # Safety
    ///
    /// `file` must be an open file of this device, and `table` null or valid.
    unsafe extern "C" fn poll(
        file: *mut bindings::file,
        table: *mut bindings::poll_table_struct,
    ) -> bindings::__poll_t {
        // SAFETY: The caller holds the file and `table` for the whole call.
        let (private, table) = unsafe { (Self::private(file), PollTable::from_raw(table)) };
        // SAFETY: As above. A device's file has no position lock that `fdget_pos` could take.
        private.poll(unsafe { File::from_raw_file(file) }, table)
    }

    /// # Safety
    ///
    /// `file` must be an open file of this device, on which the current task is in ioctl(2).
    unsafe extern "C" fn ioctl(
        file: *mut bindings::file,
        command: c_uint,
        argument: c_ulong,
    ) -> c_long {
        // SAFETY: The caller holds the file for the whole call.
        let private = unsafe { Self::private(file) };
        let ioctl = Ioctl {
            command,
            argument,
            _call: PhantomData,
            _task: NotThreadSafe,
        };
        match private.ioctl(ioctl) {
            Ok(()) => 0,
            Err(error) => error.to_errno() as c_long,
        }
    }
}
