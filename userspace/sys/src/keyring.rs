// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The kernel's keyrings (keyrings(7)).

use std::ffi::{CStr, CString};
use std::{fs, io};

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
    add_key(c"logon", description, secret, keyring.id())
}

/// A keyring of the kernel's own, whose keys the kernel trusts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TrustedKeyring(libc::c_int);

impl TrustedKeyring {
    /// The one that is called so; None if there is none that this process sees.
    ///
    /// # Errors
    /// If there is no list of keys (proc_keys(5)).
    pub fn find(name: &str) -> io::Result<Option<Self>> {
        let keys = fs::read_to_string("/proc/keys")?;
        Ok(keys.lines().find_map(|line| Self::parse(line, name)))
    }

    /// The keyring in a line of the list of keys. Users can't call one so: the kernel alone begins a name with a dot.
    fn parse(line: &str, name: &str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace();
        let id = u32::from_str_radix(fields.next()?, 16).ok()?;
        let kind = fields.nth(6)?;
        let description = fields.next()?.strip_suffix(':')?;
        // The kernel takes it as a signed number.
        let id = libc::c_int::from_ne_bytes(id.to_ne_bytes());
        (kind == "keyring" && description == name).then_some(TrustedKeyring(id))
    }

    /// Adds a certificate (X.509, DER), by whose key is signed what is trusted.
    ///
    /// # Errors
    /// What the system says: that the keyring takes none, or none of this kind.
    pub fn add_certificate(self, certificate: &[u8]) -> io::Result<Key> {
        add_key(c"asymmetric", "", certificate, self.0)
    }
}

fn add_key(
    kind: &CStr,
    description: &str,
    payload: &[u8],
    keyring: libc::c_int,
) -> io::Result<Key> {
    let description = CString::new(description)?;
    // SAFETY: both texts end with a NUL, and the payload has this length; the kernel copies all three.
    let key = unsafe {
        libc::syscall(
            libc::SYS_add_key,
            kind.as_ptr(),
            description.as_ptr(),
            payload.as_ptr(),
            payload.len(),
            keyring,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keyring_of_the_kernel_is_found_by_its_name() {
        let line = "fd1e3d4c I------     1 perm 1f0b0000     0     0 keyring   .peerfs: empty";
        let find = |line| TrustedKeyring::parse(line, ".peerfs");
        assert_eq!(find(line), Some(TrustedKeyring(-0x02e1_c2b4)));
        for other in [
            "",
            "1f1e3d4c I------     1 perm 1f0b0000     0     0 keyring   .peerfs2: 1",
            "1f1e3d4c I------     1 perm 1f0b0000     0     0 user      .peerfs: 1",
            "1f1e3d4c I------     1 perm 1f0b0000     0     0 asymmetri a: X509.rsa 1 []",
        ] {
            assert_eq!(find(other), None, "{other}");
        }
    }
}
