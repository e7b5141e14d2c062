//! A connection's bytes under watch: a client that stops in the middle gives its place back.
//!
//! How it works: [`WatchedStream`] stands between the socket and the HTTP codec. Until the first bytes tell HTTP/1.1
//! from HTTP/2 nothing else watches the reading, so a deadline does; afterwards the codec's own head timeout holds. A
//! write that the other side takes no byte of for the no-progress time fails, whatever the codec is waiting for.
//!
//! Invariant: there is no limit on how long a transfer takes, only on how long nothing of it moves.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::connection_watch::ConnectionWatch;

/// What HTTP/2 by prior knowledge begins with; anything else is HTTP/1.1.
const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long a connection may stand still.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// From accepting to knowing which protocol is spoken.
    pub(super) protocol: Duration,
    /// Between two bytes that the other side takes.
    pub(super) write: Duration,
}

/// A stream that fails instead of standing still.
#[derive(Debug)]
pub(super) struct WatchedStream<S> {
    stream: S,
    patience: Patience,
    /// Is told what is spoken, and what is taken.
    connection: Arc<ConnectionWatch>,
    /// How much of the preface has come; `None` once the protocol is known.
    preface: Option<usize>,
    read_deadline: Pin<Box<Sleep>>,
    write_deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> WatchedStream<S> {
    /// Watches from now on.
    pub(super) fn new(stream: S, patience: Patience, connection: Arc<ConnectionWatch>) -> Self {
        let read_deadline = Box::pin(sleep_until(Instant::now() + patience.protocol));
        Self { stream, patience, connection, preface: Some(0), read_deadline, write_deadline: None }
    }

    /// Looks at what came; the protocol is known at the end of the preface, or where something else stands.
    fn note_read(&mut self, fresh: &[u8]) {
        let Some(seen) = self.preface else { return };
        // More than the preface may come at once.
        let fresh = fresh.get(..HTTP2_PREFACE.len().saturating_sub(seen)).unwrap_or(fresh);
        let is_preface = HTTP2_PREFACE.get(seen..).is_some_and(|rest| rest.starts_with(fresh));
        let is_whole = is_preface && seen + fresh.len() == HTTP2_PREFACE.len();
        if is_whole {
            self.connection.note_http2();
        }
        let ended = fresh.is_empty() || !is_preface || is_whole;
        self.preface = (!ended).then_some(seen + fresh.len());
    }

    fn note_written(&self, outcome: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(bytes)) = outcome {
            self.connection.note_written(*bytes);
        }
    }

    fn watch_write<T>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.write_deadline = None;
            return outcome;
        }
        let wait = self.patience.write;
        let deadline = self.write_deadline.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + wait)));
        deadline.as_mut().poll(cx).map(|()| Err(stalled("no byte was taken")))
    }
}

fn stalled(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("the connection stands still: {what} in time"))
}

impl<S: AsyncRead + Unpin> AsyncRead for WatchedStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buf);
        match outcome {
            Poll::Ready(Ok(())) => self.note_read(buf.filled().get(before..).unwrap_or_default()),
            Poll::Ready(Err(_)) => {}
            Poll::Pending if self.preface.is_some() => {
                return self.read_deadline.as_mut().poll(cx).map(|()| Err(stalled("no request began")));
            }
            Poll::Pending => {}
        }
        outcome
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WatchedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note_written(&outcome);
        self.watch_write(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.note_written(&outcome);
        self.watch_write(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    const PATIENCE: Patience = Patience { protocol: Duration::from_secs(120), write: Duration::from_secs(60) };

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stops_inside_the_preface_gives_its_place_back() {
        for part in [&b""[..], b"P", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r"] {
            let (mut client, server) = duplex(64);
            client.write_all(part).await.unwrap();
            let mut server = WatchedStream::new(server, PATIENCE, Arc::default());
            let mut bytes = Vec::new();
            let error = server.read_to_end(&mut bytes).await.unwrap_err();
            assert_eq!((error.kind(), bytes.as_slice()), (io::ErrorKind::TimedOut, part));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn once_the_protocol_is_known_the_codec_does_the_waiting() {
        for begun in [&b"PUT"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
            let (mut client, server) = duplex(64);
            client.write_all(begun).await.unwrap();
            let mut server = WatchedStream::new(server, PATIENCE, Arc::default());
            let mut bytes = [0; 64];
            let count = server.read(&mut bytes).await.unwrap();
            assert_eq!(bytes.get(..count), Some(begun));
            let waited = tokio::time::timeout(Duration::from_secs(3600), server.read(&mut bytes)).await;
            assert!(waited.is_err(), "a slow upload is not this stream's business");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_no_byte_loses_its_download_and_a_slow_one_does_not() {
        let (mut client, server) = duplex(8);
        let mut server = WatchedStream::new(server, PATIENCE, Arc::default());
        let writer = tokio::spawn(async move { server.write_all(&[7; 32]).await });
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_secs(50)).await;
            client.read_exact(&mut [0; 8]).await.unwrap();
        }
        let began = Instant::now();
        let error = writer.await.unwrap().unwrap_err();
        assert_eq!((error.kind(), began.elapsed()), (io::ErrorKind::TimedOut, PATIENCE.write));
    }
}
