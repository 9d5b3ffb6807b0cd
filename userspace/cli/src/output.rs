// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Writing for people and for programs.

use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

use peerfs_store::{printable, printable_bytes};
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use serde::Serialize;

use crate::error::{Error, Result};

/// The buffered standard output.
pub(crate) struct Output {
    writer: BufWriter<StdoutLock<'static>>,
    is_terminal: bool,
}

impl Output {
    pub(crate) fn new() -> Self {
        let stdout = io::stdout().lock();
        Output {
            is_terminal: stdout.is_terminal(),
            writer: BufWriter::with_capacity(256 * 1024, stdout),
        }
    }

    /// Writes bytes as they are.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.writer.write_all(bytes).map_err(Error::Output)
    }

    /// Writes a line.
    pub(crate) fn line(&mut self, text: &str) -> Result<()> {
        self.bytes(text.as_bytes())?;
        self.bytes(b"\n")
    }

    /// Writes a name: as it is to a program, so that a person's terminal is safe from it otherwise.
    pub(crate) fn name(&mut self, name: &[u8]) -> Result<()> {
        if self.is_terminal {
            write!(self.writer, "{}", printable_bytes(name)).map_err(Error::Output)
        } else {
            self.bytes(name)
        }
    }

    /// Writes a value as a line of JSON.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<()> {
        serde_json::to_writer(&mut self.writer, value)
            .map_err(|error| Error::Output(error.into()))?;
        self.bytes(b"\n")
    }

    /// Writes rows, each column as wide as its widest cell; the last one as it is.
    pub(crate) fn table<const N: usize>(
        &mut self,
        columns: [Align; N],
        rows: &[[String; N]],
    ) -> Result<()> {
        align(columns, rows)
            .iter()
            .try_for_each(|line| self.line(line))
    }

    /// Brings out what was written.
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.writer.flush().map_err(Error::Output)
    }

    /// Brings everything out.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.flush()
    }
}

/// Rows as lines, each column as wide as its widest cell; the last one as it is.
pub(crate) fn align<const N: usize>(columns: [Align; N], rows: &[[String; N]]) -> Vec<String> {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).zip(columns).enumerate();
        let cells = cells.map(|(place, ((cell, width), align))| match align {
            _ if place + 1 == N => cell.clone(),
            Align::Left => format!("{cell:width$}"),
            Align::Right => format!("{cell:>width$}"),
        });
        cells.collect::<Vec<_>>().join("  ")
    };
    rows.iter().map(line).collect()
}

/// The side of a column on which its cells are.
#[derive(Clone, Copy)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Whether nobody reads the standard output any more.
pub(crate) fn is_reader_gone() -> bool {
    let stdout = io::stdout();
    let mut asked = [PollFd::new(&stdout, PollFlags::empty())];
    let polled = poll(&mut asked, Some(&Timespec::default()));
    let [asked] = asked;
    polled.is_ok() && asked.revents().contains(PollFlags::ERR)
}

/// Tells a person something, who may not listen: standard error may be full or closed, which is no reason to
/// fail. Whatever controls a terminal is taken out, but the ends of lines.
pub(crate) fn tell(text: &str) {
    let text = text.replace(
        |letter: char| letter.is_control() && letter != '\n',
        "\u{fffd}",
    );
    let _ = writeln!(io::stderr(), "{text}");
}

/// What another program has said, as one line of at most so many letters, without what a terminal obeys.
pub(crate) fn one_line(said: &[u8], letters_max: usize) -> String {
    let text = String::from_utf8_lossy(said);
    let words: Vec<&str> = text.split_whitespace().collect();
    let line: String = words.join(" ").chars().take(letters_max).collect();
    printable(&line).to_string()
}

/// Bytes for people: `12.3 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// Bytes a second for people; nothing is a dash, so that what moves is seen.
pub(crate) fn rate(bytes: u64) -> String {
    match bytes {
        0 => "-".to_owned(),
        bytes => size(bytes),
    }
}

/// A time span for people, in two units at most: `42s`, `3m10s`, `2h05m`, `3d04h`.
pub(crate) fn age(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match () {
        () if days > 0 => format!("{days}d{:02}h", hours % 24),
        () if hours > 0 => format!("{hours}h{:02}m", minutes % 60),
        () if minutes > 0 => format!("{minutes}m{:02}s", seconds % 60),
        () => format!("{seconds}s"),
    }
}

/// The beginning of a digest, enough for people.
pub(crate) fn digest(hexadecimal: &str) -> String {
    let beginning: String = hexadecimal.chars().take(12).collect();
    printable(&beginning).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_say_does_nothing_to_a_terminal() {
        let said = b"\n one \x1b]0;title\x07\n\npeerfs: forged\t\xff\xe2\x80\xaetwo\r\n";
        let shown = one_line(said, 100);
        let expected = "one \\u{1b}]0;title\\u{7} peerfs: forged \u{fffd}\\u{202e}two";
        assert_eq!(shown, expected);
        assert_eq!(one_line(said, 3), "one");
    }

    #[test]
    fn ages_have_two_units() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (190, "3m10s"),
            (7_500, "2h05m"),
            (273_600, "3d04h"),
        ] {
            assert_eq!(age(seconds * 1000 + 999), text);
        }
        assert!(!digest("\u{1b}[2J").contains('\u{1b}'));
    }
}
