//! A blocking HTTP/1.1 client that does as it is told: one connection per request, bodies streamed both ways.
//!
//! It is no general client on purpose. It shows what came over the wire (every header, a body cut short), it can stop in
//! mid-upload, and it holds no more than a buffer of a body.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// A socket without a byte for this long is an error: no answer in the tests takes as long.
const SILENCE_MAX: Duration = Duration::from_secs(120);

const BUFFER_BYTES: usize = 64 * 1024;

/// What a request carries.
pub enum Body<'a> {
    /// Nothing, and no length header.
    Empty,
    /// These bytes.
    Bytes(&'a [u8]),
    /// A stream with its length announced.
    Sized(u64, &'a mut dyn Read),
    /// A stream without a length.
    Chunked(&'a mut dyn Read),
}

/// Speaks to one listener.
#[derive(Debug, Clone, Copy)]
pub struct Client {
    address: SocketAddr,
}

impl Client {
    /// A client for a port of this machine.
    pub fn local(port: u16) -> Self {
        Self { address: SocketAddr::from(([127, 0, 0, 1], port)) }
    }

    /// A client for a port of another host.
    pub fn at(host: Ipv4Addr, port: u16) -> Self {
        Self { address: SocketAddr::from((host, port)) }
    }

    /// One exchange; the reply's body is yet to be read.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Body<'_>) -> io::Result<Reply> {
        let mut stream = self.connect()?;
        // A server may answer and close before it has read the body: its answer counts, not our failed write.
        let written = write_request(&mut stream, method, path, headers, body);
        match Reply::read(stream, method == "HEAD") {
            Ok(reply) => Ok(reply),
            Err(error) => Err(written.err().unwrap_or(error)),
        }
    }

    /// GET.
    pub fn get(&self, path: &str) -> io::Result<Reply> {
        self.send("GET", path, &[], Body::Empty)
    }

    /// PUT of bytes.
    pub fn put(&self, path: &str, bytes: &[u8]) -> io::Result<Reply> {
        self.send("PUT", path, &[], Body::Bytes(bytes))
    }

    /// Announces a body and sends only its first bytes. The client vanishes when the stream is dropped.
    pub fn begin_upload(&self, method: &str, path: &str, announced: u64, first: &[u8]) -> io::Result<TcpStream> {
        let mut stream = self.connect()?;
        write!(stream, "{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-length: {announced}\r\n\r\n", self.address)?;
        stream.write_all(first)?;
        stream.flush()?;
        Ok(stream)
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&self.address, Duration::from_secs(5))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        stream.set_write_timeout(Some(SILENCE_MAX))?;
        Ok(stream)
    }
}

fn write_request(
    stream: &mut TcpStream,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Body<'_>,
) -> io::Result<()> {
    let host = stream.peer_addr()?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    match &body {
        Body::Empty => {}
        Body::Bytes(bytes) => head.push_str(&format!("content-length: {}\r\n", bytes.len())),
        Body::Sized(len, _) => head.push_str(&format!("content-length: {len}\r\n")),
        Body::Chunked(_) => head.push_str("transfer-encoding: chunked\r\n"),
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    match body {
        Body::Empty => {}
        Body::Bytes(bytes) => stream.write_all(bytes)?,
        Body::Sized(_, source) => copy(source, stream)?,
        Body::Chunked(source) => {
            let mut buffer = vec![0; BUFFER_BYTES];
            loop {
                let count = source.read(&mut buffer)?;
                write!(stream, "{count:x}\r\n")?;
                stream.write_all(&buffer[..count])?;
                stream.write_all(b"\r\n")?;
                if count == 0 {
                    break;
                }
            }
        }
    }
    stream.flush()
}

fn copy(source: &mut dyn Read, target: &mut dyn Write) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let count = source.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        target.write_all(&buffer[..count])?;
    }
}

/// How the end of a body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length(u64),
    Chunked { left: u64, done: bool },
    UntilClose,
}

/// An answer whose body is read as the test wants it.
#[derive(Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    stream: BufReader<TcpStream>,
    framing: Framing,
}

impl Reply {
    fn read(stream: TcpStream, headless: bool) -> io::Result<Self> {
        let mut stream = BufReader::with_capacity(BUFFER_BYTES, stream);
        loop {
            let (status, headers) = read_head(&mut stream)?;
            if status == 100 {
                continue;
            }
            let mut reply = Self { status, headers, stream, framing: Framing::UntilClose };
            reply.framing = if headless || status == 204 || status == 304 {
                Framing::Length(0)
            } else if reply.header("transfer-encoding").is_some_and(|value| value.contains("chunked")) {
                Framing::Chunked { left: 0, done: false }
            } else if let Some(length) = reply.header("content-length") {
                Framing::Length(length.parse().map_err(|_| invalid("content-length"))?)
            } else {
                Framing::UntilClose
            };
            return Ok(reply);
        }
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(candidate, _)| candidate == name).map(|(_, value)| value.as_str())
    }

    /// The whole body; an error if it was cut short.
    pub fn bytes(mut self) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        self.read_to_end(&mut all)?;
        Ok(all)
    }

    /// The whole body as text.
    pub fn text(self) -> io::Result<String> {
        Ok(String::from_utf8_lossy(&self.bytes()?).into_owned())
    }

    /// The whole body as JSON.
    pub fn json(self) -> io::Result<serde_json::Value> {
        Ok(serde_json::from_slice(&self.bytes()?)?)
    }

    fn next_chunk(&mut self) -> io::Result<u64> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        if line.trim().is_empty() {
            line.clear();
            self.stream.read_line(&mut line)?;
        }
        u64::from_str_radix(line.trim(), 16).map_err(|_| invalid("chunk length"))
    }

    fn read_at_most(&mut self, buffer: &mut [u8], left: u64) -> io::Result<usize> {
        let count = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let read = self.stream.read(&mut buffer[..count])?;
        if read == 0 && count > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("body cut {left} bytes short")));
        }
        Ok(read)
    }
}

impl Read for Reply {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.framing {
            Framing::UntilClose => self.stream.read(buffer),
            Framing::Length(0) | Framing::Chunked { done: true, .. } => Ok(0),
            Framing::Length(left) => {
                let read = self.read_at_most(buffer, left)?;
                self.framing = Framing::Length(left - read as u64);
                Ok(read)
            }
            Framing::Chunked { left: 0, .. } => {
                let left = self.next_chunk()?;
                self.framing = Framing::Chunked { left, done: left == 0 };
                self.read(buffer)
            }
            Framing::Chunked { left, .. } => {
                let read = self.read_at_most(buffer, left)?;
                self.framing = Framing::Chunked { left: left - read as u64, done: false };
                Ok(read)
            }
        }
    }
}

fn read_head(stream: &mut BufReader<TcpStream>) -> io::Result<(u16, Vec<(String, String)>)> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "connection closed without an answer"));
    }
    let status =
        line.split(' ').nth(1).and_then(|code| code.trim().parse().ok()).ok_or_else(|| invalid("status line"))?;
    let mut headers = Vec::new();
    loop {
        line.clear();
        stream.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            return Ok((status, headers));
        };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("malformed {what}"))
}
