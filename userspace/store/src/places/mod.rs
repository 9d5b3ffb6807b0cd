// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Where chunks lie that are in no whole pack: data files, and tables that say what is where in them. See
//! `Documentation/store.md`.

mod changes;
mod data_files;
mod loose;
mod table;

pub(crate) use changes::{ChangeLock, Ranges};
pub(crate) use data_files::DataFiles;
pub(crate) use table::PlaceTable;
