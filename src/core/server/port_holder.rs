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
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let inodes: Vec<u64> = tables
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .flat_map(|table| listening_inodes(&table, address))
        .collect();
    if inodes.is_empty() {
        return None;
    }
    let wanted: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let processes = std::fs::read_dir("/proc").ok()?;
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| holds(*pid, &wanted)).map(named).next()
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

/// Whether a listener at this address, in the table's hexadecimal, can stand in the way of `wanted`. IPv6 rows always
/// may: a dual-stack socket takes the IPv4 port too.
fn may_conflict(host: &str, wanted: IpAddr) -> bool {
    let any = host.bytes().all(|digit| digit == b'0');
    match (host.len(), wanted) {
        (8, IpAddr::V4(wanted)) if !any && !wanted.is_unspecified() => {
            u32::from_str_radix(host, 16).is_ok_and(|host| host.to_le_bytes() == wanted.octets())
        }
        _ => true,
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
    fn this_process_is_found_by_its_own_listener() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let holder = port_holder(listener.local_addr().unwrap()).unwrap();
        assert_eq!(holder.pid, std::process::id());
        assert!(!holder.command.is_empty());
    }
}
