//! Who listens on a port that is taken, so that the error can name it.
//!
//! How it works: the kernel's socket tables give the inode of the listening socket, and the descriptors below `/proc`
//! give the process that has it open. Everything is best effort: another user's process cannot be looked into.
//!
//! Invariant: reads only, bounded by the number of processes and descriptors there are.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// The state `LISTEN` in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// A process that holds a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortHolder {
    /// Its process id.
    pub pid: u32,
    /// Its command name.
    pub command: String,
}

impl fmt::Display for PortHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {} ({})", self.pid, self.command)
    }
}

/// The process that listens on this address, if it can be seen.
pub fn port_holder(address: SocketAddr) -> Option<PortHolder> {
    let inodes = listeners(address);
    if inodes.is_empty() {
        return None;
    }
    let wanted: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let processes = std::fs::read_dir("/proc").ok()?;
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| holds(*pid, &wanted)).map(named).next()
}

/// Whether somebody listens on this address, or on another that stands in its way.
pub fn is_taken(address: SocketAddr) -> bool {
    !listeners(address).is_empty()
}

fn listeners(address: SocketAddr) -> Vec<u64> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].into_iter();
    let texts = tables.filter_map(|path| std::fs::read_to_string(path).ok());
    texts.flat_map(|table| listening_inodes(&table, address)).collect()
}

fn holds(pid: u32, sockets: &[String]) -> bool {
    let Ok(descriptors) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    descriptors.flatten().any(|descriptor| is_one_of(&descriptor.path(), sockets))
}

fn is_one_of(descriptor: &Path, sockets: &[String]) -> bool {
    let target = std::fs::read_link(descriptor).unwrap_or_default();
    sockets.iter().any(|socket| target.as_os_str() == socket.as_str())
}

fn named(pid: u32) -> PortHolder {
    let command = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    PortHolder { pid, command: command.trim().to_owned() }
}

/// Inodes of sockets that listen on the port, on the same address or on all of them.
fn listening_inodes(table: &str, address: SocketAddr) -> Vec<u64> {
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter_map(|row| {
        let (local, state, inode) = (row.get(1)?, row.get(3)?, row.get(9)?);
        let (host, port) = local.split_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        let conflicts = *state == LISTEN && port == address.port() && may_conflict(host, address.ip());
        if conflicts { inode.parse().ok() } else { None }
    })
    .collect()
}

/// Whether a listener at this address, in the table's hexadecimal, stands in the way of `wanted`. A socket on all of
/// IPv6 takes the IPv4 port, too.
fn may_conflict(host: &str, wanted: IpAddr) -> bool {
    match (address_of(host), wanted) {
        (Some(IpAddr::V6(held)), IpAddr::V4(_)) => held.is_unspecified(),
        (Some(IpAddr::V4(_)), IpAddr::V6(wanted)) => wanted.is_unspecified(),
        (Some(held), wanted) => held.is_unspecified() || wanted.is_unspecified() || held == wanted,
        (None, _) => false,
    }
}

/// The table writes an address as words of 32 bits in the machine's order, here little endian.
fn address_of(host: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(host.get(at..at + 8)?, 16).ok().map(u32::to_le_bytes);
    match host.len() {
        8 => Some(IpAddr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            let octets: [u8; 16] = words.concat().try_into().ok()?;
            Some(IpAddr::from(octets).to_canonical())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
        0: 0100007F:0FA0 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4242 1 0000 100 0\n   \
        1: 0100007F:0FA0 0100007F:9999 01 00000000:00000000 00:00000000 00000000  1000        0 4343 1 0000 100 0\n";

    #[test]
    fn only_a_listening_row_of_the_address_counts() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert_eq!(listening_inodes(TABLE, address("127.0.0.1:4000")), [4242]);
        assert_eq!(listening_inodes(TABLE, address("0.0.0.0:4000")), [4242]);
        assert!(listening_inodes(TABLE, address("127.0.0.2:4000")).is_empty());
        assert!(listening_inodes(TABLE, address("127.0.0.1:4001")).is_empty());
    }

    #[test]
    fn a_listener_on_all_of_ipv6_takes_the_ipv4_port_and_one_on_its_loopback_does_not() {
        let conflicts = |host: &str, wanted: &str| may_conflict(host, wanted.parse().unwrap());
        let (any, loopback) = ("0".repeat(32), "00000000000000000000000001000000");
        assert!(conflicts(&any, "127.0.0.1") && conflicts(&any, "::1") && conflicts(loopback, "::1"));
        assert!(conflicts(loopback, "::") && !conflicts(loopback, "127.0.0.1") && !conflicts(loopback, "0.0.0.0"));
        assert!(conflicts("0000000000000000FFFF00000100007F", "127.0.0.1"), "an IPv4 address in IPv6 form");
        assert!(!conflicts("nonsense", "127.0.0.1"));
    }

    #[test]
    fn this_process_is_found_by_its_own_listener() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let holder = port_holder(listener.local_addr().unwrap()).unwrap();
        assert_eq!(holder.pid, std::process::id());
        assert!(is_taken(listener.local_addr().unwrap()));
        assert!(!holder.command.is_empty());
    }
}
