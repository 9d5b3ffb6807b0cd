// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The time of a message and its answer on the way: one byte over a TCP connection of this machine with
//! itself, from a thread to another and back.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::num::NonZeroU32;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::{Error, Result};

/// One round trip, on average.
pub(super) fn round_trip(times: NonZeroU32) -> Result<Duration> {
    measure(times).map_err(Error::io("talk over", Path::new("loopback")))
}

fn measure(times: NonZeroU32) -> io::Result<Duration> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let echo = thread::spawn(move || echo(far));
    let began = Instant::now();
    for _ in 0..times.get() {
        near.write_all(&[0])?;
        near.read_exact(&mut [0])?;
    }
    let time = began.elapsed();
    drop(near);
    echo.join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    Ok(time / times.get())
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut byte = [0];
    while stream.read(&mut byte)? > 0 {
        stream.write_all(&byte)?;
    }
    Ok(())
}
