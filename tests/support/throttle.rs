//! A relay in front of a port: it lets what the server sends through at a rate, counts it, and can break connections.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Bytes passed on at a time.
const PIECE_BYTES: usize = 16 * 1024;

/// The relay; its threads end with their connections and with the test process.
#[derive(Debug, Clone)]
pub struct Throttle {
    port: u16,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    sent: AtomicU64,
    /// Bytes a second on each connection; 0 for no limit.
    rate: AtomicU64,
    open: Mutex<Vec<TcpStream>>,
}

impl Throttle {
    /// A relay to a port of this machine, without a limit.
    pub fn before(target: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("binding a relay");
        let port = listener.local_addr().expect("the relay's address").port();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // The target may be down: the client's connection then closes at once.
                let Ok(server) = TcpStream::connect(("127.0.0.1", target)) else { continue };
                shared.relay(client, server);
            }
        });
        Self { port, state }
    }

    /// What peers dial.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Bytes a second on each connection; 0 for no limit.
    pub fn set_rate(&self, bytes: u64) {
        self.state.rate.store(bytes, Ordering::Relaxed);
    }

    /// Bytes that the server sent through it so far.
    pub fn sent(&self) -> u64 {
        self.state.sent.load(Ordering::Relaxed)
    }

    /// Breaks every open connection.
    pub fn cut(&self) {
        for stream in self.state.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl State {
    fn relay(self: &Arc<Self>, client: TcpStream, server: TcpStream) {
        let share = |stream: &TcpStream| stream.try_clone().expect("sharing a socket");
        self.open.lock().unwrap_or_else(PoisonError::into_inner).extend([share(&client), share(&server)]);
        let (mut from_client, mut to_server) = (share(&client), share(&server));
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut from_client, &mut to_server);
            let _ = to_server.shutdown(Shutdown::Write);
        });
        let state = Arc::clone(self);
        std::thread::spawn(move || state.pass_on(server, client));
    }

    fn pass_on(&self, mut server: TcpStream, mut client: TcpStream) {
        let mut piece = [0; PIECE_BYTES];
        let mut due = Instant::now();
        loop {
            let count = match server.read(&mut piece) {
                Ok(0) | Err(_) => break,
                Ok(count) => count,
            };
            if client.write_all(&piece[..count]).is_err() {
                break;
            }
            self.sent.fetch_add(count as u64, Ordering::Relaxed);
            let rate = self.rate.load(Ordering::Relaxed);
            if rate > 0 {
                due = due.max(Instant::now()) + Duration::from_secs_f64(count as f64 / rate as f64);
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
        }
        let _ = client.shutdown(Shutdown::Both);
        let _ = server.shutdown(Shutdown::Both);
    }
}
