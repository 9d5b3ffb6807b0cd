// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The traces of a store's images: files in `traces`, each named after its image and its workload.

use std::io::{self, Write};

use peerfs_format::upcall::Workload;
use peerfs_format::Digest;
use peerfs_trace::{Trace, TRACE_MAX};

use crate::temporary_file::TemporaryFile;
use crate::{layout, whole_file, Error, Result, Store};

/// The traces of a store, at most: the one that was written longest ago makes room.
const TRACES_MAX: usize = 512;

impl Store {
    /// The trace of an image for a workload, if there is one.
    ///
    /// # Errors
    /// [`Error::Layout`] if it can't be read as a trace of them; [`Error::NotARegularFile`]; [`Error::Io`].
    pub fn trace(&self, image: &Digest, workload: Workload) -> Result<Option<Trace>> {
        let name = layout::trace(image, workload);
        let Some(file) = self.directory().read(&name)? else {
            return Ok(None);
        };
        let invalid = |reason: String| Error::Layout {
            path: self.directory().path(&name),
            reason,
        };
        let bytes = whole_file::read_all(&file, TRACE_MAX).map_err(|error| match error.kind() {
            io::ErrorKind::FileTooLarge => invalid(error.to_string()),
            _ => self.directory().failed("read", &name)(error),
        })?;
        let trace = Trace::parse(&bytes).map_err(|error| invalid(error.to_string()))?;
        if trace.image != *image || trace.workload != workload {
            return Err(invalid("it is a trace of something else".into()));
        }
        Ok(Some(trace))
    }

    /// Adds what was missed to the trace of its image and workload, which is made if there is none, or replaced if it is
    /// damaged. Returns whether something was new.
    ///
    /// # Errors
    /// [`Error::Io`] if the disk is full, for example; nothing has changed then.
    pub fn add_trace(&self, missed: &Trace) -> Result<bool> {
        let directory = self.directory();
        directory
            .make_directory(layout::TRACES)
            .map_err(directory.failed("create", layout::TRACES))?;
        // Of two who add at once neither loses what it adds.
        let lock = directory.write_or_create(layout::TRACES_LOCK, crate::directory::READABLE)?;
        directory.lock(layout::TRACES_LOCK, &lock)?;
        let known = match self.trace(&missed.image, missed.workload) {
            Err(Error::Layout { .. } | Error::NotARegularFile(_)) => None,
            known => known?,
        };
        let mut trace = known.unwrap_or(Trace::new(missed.image, missed.workload));
        if !trace.add(missed) {
            return Ok(false);
        }
        let name = layout::trace(&trace.image, trace.workload);
        self.make_room_for_trace(&name)?;
        let file = TemporaryFile::create(directory)
            .map_err(directory.failed("create a file in", layout::TMP))?;
        let written = file.file().write_all(&trace.encode());
        written
            .and_then(|()| file.persist(&name))
            .map_err(directory.failed("create", &name))?;
        Ok(true)
    }

    fn make_room_for_trace(&self, name: &str) -> Result<()> {
        let traces = self.traces()?;
        if traces.len() < TRACES_MAX || self.directory().has_file(name) {
            return Ok(());
        }
        let oldest = traces.into_iter().min_by_key(|(image, workload)| {
            let metadata = self.directory().metadata(&layout::trace(image, *workload));
            metadata.ok().flatten()?.modified().ok()
        });
        match oldest {
            Some((image, workload)) => self.remove_trace(&image, workload).map(drop),
            None => Ok(()),
        }
    }

    /// Removes a trace, if there is one, a damaged one too. Returns whether there was one.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remove_trace(&self, image: &Digest, workload: Workload) -> Result<bool> {
        let name = layout::trace(image, workload);
        let is_there = matches!(self.directory().metadata(&name), Ok(Some(_)));
        self.directory()
            .remove(&name)
            .map_err(self.directory().failed("remove", &name))?;
        Ok(is_there)
    }

    /// The images and workloads of which there are traces, in no order.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn traces(&self) -> Result<Vec<(Digest, Workload)>> {
        let names = self.directory().names(layout::TRACES)?;
        let traces = names.iter().filter_map(|name| layout::parse_trace(name));
        Ok(traces.collect())
    }
}
