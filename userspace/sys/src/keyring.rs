// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The kernel's keyrings (keyrings(7)).

use std::ffi::CString;
use std::io;

use nix::libc;

/// A keyring of the calling process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Keyring {
    /// Of the process itself: gone with it.
    Process,
    /// Of the session.
    Session,
    /// Of the user.
    User,
}

impl Keyring {
    fn id(self) -> libc::c_int {
        match self {
            Keyring::Process => libc::KEY_SPEC_PROCESS_KEYRING,
            Keyring::Session => libc::KEY_SPEC_SESSION_KEYRING,
            Keyring::User => libc::KEY_SPEC_USER_KEYRING,
        }
    }
}

/// A key of the kernel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Key(libc::c_long);

/// Adds a key that the kernel can read and no process, or replaces one that is called so.
///
/// # Errors
/// What the system says: that a quota is used up, or that there are no keyrings.
pub fn add_logon_key(keyring: Keyring, description: &str, secret: &[u8]) -> io::Result<Key> {
    let description = CString::new(description)?;
    // SAFETY: both texts end with a NUL, and the secret has this length; the kernel copies all three.
    let key = unsafe {
        libc::syscall(
            libc::SYS_add_key,
            c"logon".as_ptr(),
            description.as_ptr(),
            secret.as_ptr(),
            secret.len(),
            keyring.id(),
        )
    };
    match key {
        -1 => Err(io::Error::last_os_error()),
        key => Ok(Key(key)),
    }
}

/// Does away with a key: what it was is not in memory any more, whoever has it in a keyring.
///
/// # Errors
/// What the system says.
pub fn invalidate(key: Key) -> io::Result<()> {
    // SAFETY: takes numbers alone.
    let done = unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_INVALIDATE, key.0) };
    match done {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
