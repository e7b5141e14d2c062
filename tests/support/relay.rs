//! A relay for TCP connections that hands every byte on after a delay, both ways, and counts them.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Pieces on their way in one direction of one connection; with [`PIECE_BYTES`] more than a socket buffers.
const PIECES_MAX: usize = 1024;

const PIECE_BYTES: usize = 16 << 10;

/// Listens until the process ends.
#[derive(Debug)]
pub struct Relay {
    bytes: Arc<AtomicU64>,
}

impl Relay {
    /// A relay that listens on an address and hands on to the same port of loopback.
    pub fn start(host: Ipv4Addr, port: u16, delay: Duration) -> Self {
        let listener = TcpListener::bind((host, port)).expect("listening");
        let bytes = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&bytes);
        std::thread::spawn(move || {
            for accepted in listener.incoming().flatten() {
                let target = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                // A node that is down refuses: so does the relay, by closing.
                let Ok(onward) = TcpStream::connect_timeout(&target, Duration::from_secs(5)) else { continue };
                carry(&accepted, &onward, delay, &counter);
                carry(&onward, &accepted, delay, &counter);
            }
        });
        Self { bytes }
    }

    /// Bytes handed on so far, both ways.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// One direction: a thread that reads and one that writes when it is time.
fn carry(from: &TcpStream, to: &TcpStream, delay: Duration, counter: &Arc<AtomicU64>) {
    let (sender, receiver) = mpsc::sync_channel::<(Instant, Vec<u8>)>(PIECES_MAX);
    let (mut from, mut to) = (from.try_clone().expect("a handle"), to.try_clone().expect("a handle"));
    to.set_nodelay(true).expect("sending at once");
    std::thread::spawn(move || {
        let mut piece = vec![0; PIECE_BYTES];
        while let Ok(count) = from.read(&mut piece) {
            if count == 0 || sender.send((Instant::now() + delay, piece[..count].to_vec())).is_err() {
                break;
            }
        }
    });
    let counter = Arc::clone(counter);
    std::thread::spawn(move || {
        for (due, piece) in receiver {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&piece).is_err() {
                break;
            }
            counter.fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
        let _ = to.shutdown(Shutdown::Write);
    });
}
