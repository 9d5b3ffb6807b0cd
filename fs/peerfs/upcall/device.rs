// SPDX-License-Identifier: GPL-2.0

//! An open file of `/dev/peerfs`: what a daemon reads, writes and passes.

#![forbid(unsafe_code)]

use super::{message::MESSAGE_MAX, queue::FileId, request::Wanted, Readers, StoreUpcall, Upcall};
use crate::rust::fs::{same_filesystem, DirectoryId, OpenedFile};
use crate::rust::miscdevice::{Ioctl, MiscDevice, POLL_READABLE, POLL_WRITABLE};
use crate::store::{Fetched, FetchedPlaces};
use kernel::{
    alloc::flags::GFP_KERNEL_ACCOUNT,
    fs::File,
    ioctl::{_IOR, _IOW},
    iov::{IovIterDest, IovIterSource},
    prelude::*,
    sync::{aref::ARef, poll::PollTable, Arc, SetOnce},
};
use peerfs_format::{
    upcall::{
        write_message, Failure, FileReply, Header, Operation, PlacesReply, HEADER_SIZE,
        IOCTL_ATTACH, IOCTL_REPLY_FILE, IOCTL_REPLY_PLACES, IOCTL_TYPE, IOCTL_USED, NO_DESCRIPTOR,
        REPLY_MAX, REQUEST_MAX, USED_SIZE,
    },
    Record,
};

const ATTACH: u32 = _IOW::<u32>(IOCTL_TYPE as u32, IOCTL_ATTACH as u32);
const REPLY_FILE: u32 = _IOW::<[u8; FileReply::SIZE]>(IOCTL_TYPE as u32, IOCTL_REPLY_FILE as u32);
const REPLY_PLACES: u32 =
    _IOW::<[u8; PlacesReply::SIZE]>(IOCTL_TYPE as u32, IOCTL_REPLY_PLACES as u32);
const USED: u32 = _IOR::<[u8; USED_SIZE]>(IOCTL_TYPE as u32, IOCTL_USED as u32);

/// An open file of the device. It serves at most one store, from ATTACH until it is closed.
pub(crate) struct Device {
    upcall: Arc<Upcall>,
    readers: Arc<Readers>,
    attachment: SetOnce<Attachment>,
}

struct Attachment {
    /// The store's requests.
    store: StoreUpcall,
    /// The file's name in the queue.
    id: FileId,
    /// Keeps the directory, and so its [`DirectoryId`], from being reused.
    directory: ARef<File>,
}

impl MiscDevice for Device {
    type Shared = Arc<Upcall>;

    const NAME: &'static CStr = c"peerfs";
    const MODE: u16 = 0o600;

    fn open(upcall: &Arc<Upcall>) -> Result<KBox<Self>> {
        let device = Device {
            upcall: upcall.clone(),
            attachment: SetOnce::new(),
            readers: Arc::pin_init(Readers::new(), GFP_KERNEL)?,
        };
        Ok(KBox::new(device, GFP_KERNEL)?)
    }

    /// As many whole messages as fit; waits only for the first one.
    fn read(&self, nonblock: bool, to: &mut IovIterDest<'_>) -> Result<usize> {
        let Attachment {
            store, id: file, ..
        } = self.attachment()?;
        let file = *file;
        if to.len() < REQUEST_MAX {
            return Err(EINVAL);
        }
        let mut message = match store.next(file) {
            Some(message) => message,
            None if nonblock => return Err(EAGAIN),
            None => store.wait_next(file, &self.readers)?,
        };
        let mut count: usize = 0;
        loop {
            let bytes = message.as_slice();
            if to.copy_to_iter(bytes) < bytes.len() {
                store.put_back(file, &message);
                return if count == 0 { Err(EFAULT) } else { Ok(count) };
            }
            count = count.saturating_add(bytes.len());
            if to.len() < MESSAGE_MAX {
                return Ok(count);
            }
            match store.next(file) {
                Some(next) => message = next,
                None => return Ok(count),
            }
        }
    }

    /// Exactly one message, which says that a request failed.
    fn write(&self, from: &mut IovIterSource<'_>) -> Result<usize> {
        let Attachment {
            store, id: file, ..
        } = self.attachment()?;
        let file = *file;
        let length = from.len();
        if !(HEADER_SIZE..=REPLY_MAX).contains(&length) {
            return Err(EINVAL);
        }
        let mut header = [0; HEADER_SIZE];
        if from.copy_from_iter(&mut header) < HEADER_SIZE {
            return Err(EFAULT);
        }
        let header = Header::decode(&header).map_err(|_| EINVAL)?;
        if header.length as usize != length {
            return Err(EINVAL);
        }
        store.find(file, header.id)?;
        let mut payload = [0; Failure::SIZE];
        if header.operation != Operation::Failed || from.len() != payload.len() {
            return Err(EINVAL);
        }
        if from.copy_from_iter(&mut payload) < payload.len() {
            return Err(EFAULT);
        }
        let failure = Failure::parse(&payload).map_err(|_| EINVAL)?;
        store.answer(file, header.id, Err(reader_error(failure.errno)))?;
        Ok(length)
    }

    fn poll(&self, file: &File, table: PollTable<'_>) -> u32 {
        self.readers.register(file, table);
        let attached = self.attachment.as_ref();
        if attached.is_some_and(|attachment| attachment.store.has_next(attachment.id)) {
            POLL_READABLE | POLL_WRITABLE
        } else {
            POLL_WRITABLE
        }
    }

    fn ioctl(&self, ioctl: Ioctl<'_>) -> Result {
        match ioctl.command {
            ATTACH => {
                let descriptor = u32::from_ne_bytes(ioctl.read()?);
                self.attach(ioctl.fget(descriptor)?)
            }
            REPLY_FILE => {
                let argument = ioctl.read::<{ FileReply::SIZE }>()?;
                let reply = FileReply::parse(&argument).map_err(|_| EINVAL)?;
                let file = self.attachment()?.file(&ioctl, reply.descriptor)?;
                self.answer(reply.id, Fetched::File(file))
            }
            REPLY_PLACES => {
                let argument = ioctl.read::<{ PlacesReply::SIZE }>()?;
                let reply = PlacesReply::parse(&argument).map_err(|_| EINVAL)?;
                self.reply_places(&ioctl, &reply)
            }
            USED => ioctl.write(&self.used()?),
            _ => Err(ENOTTY),
        }
    }
}

impl Device {
    fn attachment(&self) -> Result<&Attachment> {
        self.attachment.as_ref().ok_or(ENOTCONN)
    }

    fn attach(&self, directory: ARef<File>) -> Result {
        let store = self.upcall.store(DirectoryId::of(&directory)?)?;
        let id = store.attach(&self.readers)?;
        let attachment = Attachment {
            store,
            id,
            directory,
        };
        match self.attachment.populate(attachment) {
            true => Ok(()),
            false => Err(EBUSY),
        }
    }

    fn reply_places(&self, ioctl: &Ioctl<'_>, reply: &PlacesReply) -> Result {
        let attachment = self.attachment()?;
        let request = attachment.store.find(attachment.id, reply.id)?;
        if !matches!(request.wanted, Wanted::Chunks(_)) {
            return Err(EINVAL);
        }
        let table = attachment.file(ioctl, reply.table)?;
        let mut slots = KVVec::new();
        for (number, descriptor) in (0..).zip(reply.slots) {
            if descriptor != NO_DESCRIPTOR {
                let file = attachment.file(ioctl, descriptor)?;
                slots.push((number, file), GFP_KERNEL_ACCOUNT)?;
            }
        }
        let places = Arc::new(FetchedPlaces { table, slots }, GFP_KERNEL_ACCOUNT)?;
        self.answer(reply.id, Fetched::Places(places))
    }

    /// The message that says what was read from the store since this was asked last.
    fn used(&self) -> Result<KVVec<u8>> {
        let payload = self.attachment()?.store.usage().take()?;
        let mut message = KVVec::with_capacity(USED_SIZE, GFP_KERNEL)?;
        let mut written = Ok(());
        write_message(Operation::Used, 0, &payload, |piece| {
            written = written.and_then(|()| message.extend_from_slice(piece, GFP_KERNEL));
        });
        written?;
        Ok(message)
    }

    fn answer(&self, id: u64, fetched: Fetched) -> Result {
        let attachment = self.attachment()?;
        attachment.store.answer(attachment.id, id, Ok(fetched))
    }
}

impl Attachment {
    /// The caller's file with this descriptor, if it may be one of the store's.
    fn file(&self, ioctl: &Ioctl<'_>, descriptor: u32) -> Result<OpenedFile> {
        let file = ioctl.fget(descriptor)?;
        // A file of a mount that needs this very answer would wait for itself.
        let is_of_store = same_filesystem(&file, &self.directory);
        let file = OpenedFile::new(file)?;
        match is_of_store {
            true => Ok(file),
            false => Err(EXDEV),
        }
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.store.detach(self.id);
    }
}

/// What a reader gets when the daemon failed with `errno`.
fn reader_error(errno: u32) -> Error {
    const PASSED_ON: [Error; 6] = [ENODATA, EHOSTUNREACH, ETIMEDOUT, ENOSPC, EACCES, ENOMEM];
    PASSED_ON
        .into_iter()
        .find(|error| error.to_errno().unsigned_abs() == errno)
        .unwrap_or(EIO)
}
