// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Relays on the loopback interface that delay what they pass on, or pass it on slowly, in both directions.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// A line: how long it is, and how many bytes it carries in a second.
#[derive(Clone, Copy)]
pub struct Line {
    pub delay: Duration,
    pub rate: Option<u32>,
}

/// What a slow line carries at a time.
const SLICE: usize = 512;

/// A relay before a TCP port; returns its own port.
pub fn tcp(port: u16, line: Line) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let own = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.unwrap();
            let server = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
            for stream in [&client, &server] {
                stream.set_nodelay(true).unwrap();
            }
            pump(
                client.try_clone().unwrap(),
                server.try_clone().unwrap(),
                line,
            );
            pump(server, client, line);
        }
    });
    own
}

impl Line {
    fn carry(&self, bytes: &[u8], to: &mut TcpStream) -> std::io::Result<()> {
        let Some(rate) = self.rate else {
            return to.write_all(bytes);
        };
        let mut arrives = Instant::now();
        for slice in bytes.chunks(SLICE) {
            arrives += Duration::from_secs_f64(slice.len() as f64 / f64::from(rate));
            thread::sleep(arrives.saturating_duration_since(Instant::now()));
            to.write_all(slice)?;
        }
        Ok(())
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, line: Line) {
    let (sender, receiver) = mpsc::channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        for (arrived, bytes) in receiver {
            thread::sleep((arrived + line.delay).saturating_duration_since(Instant::now()));
            if line.carry(&bytes, &mut to).is_err() {
                return;
            }
        }
        // The other end may be gone, which is what this is to tell it.
        let _ = to.shutdown(Shutdown::Write);
    });
    thread::spawn(move || {
        let mut buffer = vec![0; 256 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            let bytes = buffer[..length].to_vec();
            if sender.send((Instant::now(), bytes)).is_err() {
                return;
            }
        }
    });
}
