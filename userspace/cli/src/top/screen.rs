// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A terminal that is drawn on.

use std::io::{self, Read, Write};
use std::time::Duration;

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::termios::{
    tcgetattr, tcgetwinsize, tcsetattr, LocalModes, OptionalActions, SpecialCodeIndex, Termios,
};

use super::view::Frame;

/// Another screen, without a cursor; and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// The size of a terminal that does not say it.
const DEFAULT_SIZE: (usize, usize) = (24, 80);

/// The terminal. When it is dropped, it is as it was before.
pub(super) struct Screen {
    before: Termios,
}

/// What a user wants.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Wish {
    Nothing,
    Redraw,
    End,
}

impl Screen {
    /// Takes the terminal of the standard input and output. Ctrl-C stays a signal, and Ctrl-Z is none: it would leave
    /// the shell with a terminal that is not its own.
    pub(super) fn open() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut modes = before.clone();
        modes.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
        modes.special_codes[SpecialCodeIndex::VSUSP] = 0;
        modes.special_codes[SpecialCodeIndex::VMIN] = 1;
        modes.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(io::stdin(), OptionalActions::Flush, &modes)?;
        let screen = Screen { before };
        write(ENTER)?;
        Ok(screen)
    }

    /// Draws over what was there.
    pub(super) fn show(&self, frame: &Frame) -> io::Result<()> {
        let (rows, columns) = size();
        let mut text = String::from("\x1b[H");
        for (place, line) in frame.lines(columns).iter().take(rows).enumerate() {
            if place > 0 {
                text += "\r\n";
            }
            text += line;
            // To the end of the line; before the last column is written, or that would be gone.
            if line.chars().count() < columns {
                text += "\x1b[K";
            }
        }
        text += "\x1b[J";
        write(&text)
    }

    /// Waits for a wish of the user, so long at most.
    pub(super) fn wait(&self, at_most: Duration) -> io::Result<Wish> {
        let stdin = io::stdin();
        let mut asked = [PollFd::new(&stdin, PollFlags::IN)];
        let timeout = Timespec {
            tv_sec: i64::try_from(at_most.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: at_most.subsec_nanos().into(),
        };
        match poll(&mut asked, Some(&timeout)) {
            Ok(0) => return Ok(Wish::Nothing),
            // Perhaps the window has another size.
            Err(Errno::INTR) => return Ok(Wish::Redraw),
            Ok(_) => (),
            Err(errno) => return Err(errno.into()),
        }
        let mut keys = [0; 64];
        let count = stdin.lock().read(&mut keys)?;
        Ok(wish_of(keys.get(..count).unwrap_or_default()))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = write(LEAVE);
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.before);
    }
}

/// What keys mean; none at all is the end of the terminal.
fn wish_of(keys: &[u8]) -> Wish {
    match keys {
        [] | [b'q' | b'Q' | 3 | 4, ..] => Wish::End,
        _ => Wish::Redraw,
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Rows and columns.
fn size() -> (usize, usize) {
    match tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row.into(), size.ws_col.into()),
        _ => DEFAULT_SIZE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q_and_the_end_of_the_terminal_end_it() {
        for keys in [&b"q"[..], b"Q", b"\x03", b"\x04", b""] {
            assert_eq!(wish_of(keys), Wish::End);
        }
        assert_eq!(wish_of(b"\x1b[A"), Wish::Redraw);
    }
}
