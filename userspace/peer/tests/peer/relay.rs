// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Relays on the loopback interface that delay what they pass on, in both directions.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// A relay before a TCP port; returns its own port.
pub fn tcp(port: u16, delay: Duration) -> u16 {
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
                delay,
            );
            pump(server, client, delay);
        }
    });
    own
}

fn pump(mut from: TcpStream, mut to: TcpStream, delay: Duration) {
    let (sender, receiver) = mpsc::channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        for (arrived, bytes) in receiver {
            thread::sleep((arrived + delay).saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
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
