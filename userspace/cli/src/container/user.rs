// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Who a program runs as: `USER[:GROUP]`, names and numbers, as an image's own `/etc/passwd` and `/etc/group` have them.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::Path;

use rustix::fs::{fstat, openat2, FileType, Mode, OFlags, ResolveFlags, CWD};

/// The most bytes of a file that are read.
const LENGTH_MAX: u64 = 4 * 1024 * 1024;

/// The files of an image that say who there is.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    passwd: String,
    group: String,
}

/// Who a program runs as.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Groups beside that.
    pub(super) groups: Vec<u32>,
    pub(super) home: Option<String>,
}

impl Accounts {
    /// Reads them below a root directory, whose links lead nowhere else. What is not there says nothing.
    pub(super) fn read(root: &Path) -> Self {
        Accounts {
            passwd: read(root, "etc/passwd"),
            group: read(root, "etc/group"),
        }
    }

    /// Finds a user; root, if none is said.
    ///
    /// # Errors
    /// What of it is not known.
    pub(super) fn find(&self, text: &str) -> Result<User, String> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let user = if user.is_empty() { "0" } else { user };
        let number = user.parse::<u32>().ok();
        // Of two with one number the first counts, as for the C library.
        let account = lines(&self.passwd).find(|fields| {
            fields.first() == Some(&user) || number.is_some() && field(fields, 2) == number
        });
        let uid = match (&account, number) {
            (Some(fields), _) => field(fields, 2),
            (None, number) => number,
        };
        let uid = uid.ok_or_else(|| format!("the image knows no user {user}"))?;
        let name = account.as_ref().and_then(|fields| fields.first().copied());
        let gid = match group {
            Some(group) => self.group(group)?,
            None => account
                .as_ref()
                .and_then(|fields| field(fields, 3))
                .unwrap_or(0),
        };
        let member = |fields: &Vec<&str>| {
            let members = fields.get(3).copied().unwrap_or_default();
            name.is_some_and(|name| members.split(',').any(|member| member == name))
        };
        let groups = match group {
            // Who names a group means that alone.
            Some(_) => Vec::new(),
            None => lines(&self.group)
                .filter(member)
                .filter_map(|fields| field(&fields, 2))
                .collect(),
        };
        let home = account.and_then(|fields| fields.get(5).copied().map(str::to_owned));
        Ok(User {
            uid,
            gid,
            groups,
            home: home.filter(|home| !home.is_empty()),
        })
    }

    fn group(&self, group: &str) -> Result<u32, String> {
        let known = lines(&self.group).find(|fields| fields.first() == Some(&group));
        let known = known.and_then(|fields| field(&fields, 2));
        known
            .or_else(|| group.parse().ok())
            .ok_or_else(|| format!("the image knows no group {group}"))
    }
}

fn lines(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().map(|line| line.split(':').collect())
}

fn field(fields: &[&str], number: usize) -> Option<u32> {
    fields.get(number)?.parse().ok()
}

fn read(root: &Path, name: &str) -> String {
    let text = || {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, root, flags, Mode::empty())?;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let found = openat2(root, name, flags, Mode::empty(), ResolveFlags::IN_ROOT)?;
        // Of a device, a pipe or a socket even to open it does something, and this process may open any of the machine.
        if FileType::from_raw_mode(fstat(&found)?.st_mode) != FileType::RegularFile {
            return Err(std::io::ErrorKind::InvalidInput.into());
        }
        let file = File::open(format!("/proc/self/fd/{}", found.as_raw_fd()))?;
        let mut bytes = Vec::new();
        file.take(LENGTH_MAX).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&bytes).into_owned())
    };
    text().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(uid: u32, gid: u32, groups: &[u32], home: Option<&str>) -> User {
        User {
            uid,
            gid,
            groups: groups.to_vec(),
            home: home.map(str::to_owned),
        }
    }

    #[test]
    fn names_and_numbers_are_those_of_the_image() {
        let accounts = Accounts {
            passwd: "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/srv:/bin/false\nodd\n".to_owned(),
            group: "root:x:0:\nwww:x:34:\nmedia:x:50:other,web\nadm:x:4:webmaster\n".to_owned(),
        };
        let find = |text| accounts.find(text);
        assert_eq!(find(""), Ok(user(0, 0, &[], Some("/root"))));
        assert_eq!(find("web"), Ok(user(33, 34, &[50], Some("/srv"))));
        assert_eq!(find("33"), find("web"));
        assert_eq!(find("web:media"), Ok(user(33, 50, &[], Some("/srv"))));
        assert_eq!(find("1000:1001"), Ok(user(1000, 1001, &[], None)));
        assert_eq!(find("1000"), Ok(user(1000, 0, &[], None)));
        assert!(find("nobody").is_err() && find("web:none").is_err());
        assert_eq!(Accounts::default().find(""), Ok(user(0, 0, &[], None)));
    }

    #[test]
    fn a_device_is_not_opened() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("etc");
        std::fs::create_dir(&path).unwrap();
        rustix::fs::mkfifoat(CWD, path.join("passwd"), Mode::RWXU).unwrap();
        // Who writes to it waits until somebody opens it to read.
        let writer = path.join("passwd");
        let opened = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let writes = std::thread::spawn({
            let (writer, opened) = (writer.clone(), opened.clone());
            move || {
                let _ = File::options().write(true).open(writer);
                opened.store(true, std::sync::atomic::Ordering::SeqCst);
            }
        });
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert_eq!(Accounts::read(root.path()).passwd, "");
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert!(!opened.load(std::sync::atomic::Ordering::SeqCst));
        drop(File::options().read(true).write(true).open(writer));
        writes.join().unwrap();
    }

    #[test]
    fn a_link_out_of_the_image_is_not_followed() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", root.path().join("etc/passwd")).unwrap();
        assert_eq!(Accounts::read(root.path()).passwd, "");
    }
}
