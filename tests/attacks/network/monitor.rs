//! A monitor that sees every packet that leaves the farm's namespace. It answers DNS queries and
//! refuses everything else.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::namespace::{self, NamespaceError, OUTSIDE, V4};

/// The kernel's mark of packets that this side sends.
const OUTGOING: u8 = 4;

/// Something that left the farm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// The first packet of a TCP connection.
    Connection(IpAddr, u16),
    /// A UDP datagram to any port but the name server's.
    Datagram(IpAddr, u16),
    /// A query for a name.
    Query(String),
    /// A name in a multicast query or answer.
    Multicast(String),
    /// Any other packet.
    Other(String),
}

/// The monitor's thread and the events that it has seen.
#[derive(Debug)]
pub(crate) struct Monitor {
    seen: Arc<Mutex<Vec<Event>>>,
    thread: i32,
    open: mpsc::Sender<()>,
    opened: mpsc::Receiver<Result<(), NamespaceError>>,
    stop: Arc<AtomicBool>,
    task: Option<JoinHandle<()>>,
}

impl Monitor {
    /// Starts the thread in its own namespace.
    pub(super) fn start() -> Result<Self, NamespaceError> {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (open, to_open) = mpsc::channel();
        let (opened_sender, opened) = mpsc::channel();
        let (born, birth) = mpsc::channel();
        let (notes, end) = (Arc::clone(&seen), Arc::clone(&stop));
        let task = std::thread::spawn(move || {
            let left = namespace::leave();
            let there = left.is_ok();
            // Fails if the receiver has given up.
            _ = born.send(left);
            if there && to_open.recv().is_ok() {
                let watching = Sockets::open();
                let watching = watching.map_err(|error| _ = opened_sender.send(Err(error)));
                if let Ok(watching) = watching {
                    _ = opened_sender.send(Ok(()));
                    watching.until(&end, &notes);
                }
            }
        });
        let thread = birth.recv().map_err(|_| NamespaceError::Monitor)??;
        Ok(Self {
            seen,
            thread,
            open,
            opened,
            stop,
            task: Some(task),
        })
    }

    /// The thread's id, which identifies its namespace.
    pub(super) fn thread(&self) -> i32 {
        self.thread
    }

    /// Starts monitoring, once the link exists.
    pub(super) fn open(&self) -> Result<(), NamespaceError> {
        self.open.send(()).map_err(|_| NamespaceError::Monitor)?;
        self.opened.recv().map_err(|_| NamespaceError::Monitor)?
    }

    /// The number of events so far.
    pub(crate) fn mark(&self) -> usize {
        self.seen.lock().expect("the lock is not poisoned").len()
    }

    /// The events since `mark`.
    pub(crate) fn since(&self, mark: usize) -> Vec<Event> {
        self.seen.lock().expect("the lock is not poisoned")[mark..].to_vec()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(task) = self.task.take() {
            // A panic of the thread cannot be handled here.
            _ = task.join();
        }
    }
}

/// The sockets of the thread.
struct Sockets {
    packets: std::os::fd::OwnedFd,
    names: UdpSocket,
}

impl Sockets {
    fn open() -> Result<Self, NamespaceError> {
        // The socket is opened before the link has addresses, so that no packet is missed.
        let packets = socket(
            AddressFamily::Packet,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::EthAll,
        )
        .map_err(|error| NamespaceError::System("a packet socket", error))?;
        let wait = TimeVal::milliseconds(10);
        setsockopt(&packets, ReceiveTimeout, &wait)
            .map_err(|error| NamespaceError::System("a packet socket", error))?;
        namespace::add_addresses()?;
        let names = UdpSocket::bind((V4, 53)).map_err(|e| NamespaceError::Io("port 53", e))?;
        names
            .set_nonblocking(true)
            .map_err(|e| NamespaceError::Io("port 53", e))?;
        Ok(Self { packets, names })
    }

    fn until(&self, stop: &AtomicBool, seen: &Mutex<Vec<Event>>) {
        let mut packet = [0; 2048];
        while !stop.load(Ordering::Relaxed) {
            // Blocks at most for the socket's own time limit.
            if let Ok((length, from)) = recvfrom::<LinkAddr>(self.packets.as_raw_fd(), &mut packet)
                && from.is_some_and(|from| from.pkttype() != OUTGOING)
                && let Some(event) = read(&packet[..length])
            {
                seen.lock().expect("the lock is not poisoned").push(event);
            }
            self.answer();
        }
    }

    /// Answers every name query with an address of the monitor.
    fn answer(&self) {
        let mut question = [0; 512];
        loop {
            match self.names.recv_from(&mut question) {
                Ok((length, from)) => {
                    if let Some(answer) = resolved(&question[..length]) {
                        // The sender may have ended.
                        _ = self.names.send_to(&answer, from);
                    }
                }
                // There are no more queries. After an error the next round tries again.
                Err(_) => return,
            }
        }
    }
}

/// Parses an IP packet. Returns none for the kernel's own packets and for later packets of a
/// connection.
fn read(packet: &[u8]) -> Option<Event> {
    match packet.first()? >> 4 {
        4 => {
            let header = usize::from(packet[0] & 15) * 4;
            let to = Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(16..20)?).ok()?);
            inner(packet[9], to.into(), packet.get(header..)?)
        }
        6 => {
            let to = Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(24..40)?).ok()?);
            inner(*packet.get(6)?, to.into(), packet.get(40..)?)
        }
        // The kernel's own ARP requests.
        _ => None,
    }
}

fn inner(protocol: u8, to: IpAddr, data: &[u8]) -> Option<Event> {
    const TCP: u8 = 6;
    const UDP: u8 = 17;
    const ICMP_V6: u8 = 58;
    const HOP_BY_HOP: u8 = 0;
    let port = || Some(u16::from_be_bytes(data.get(2..4)?.try_into().ok()?));
    match protocol {
        TCP => {
            let flags = data.get(13)? & 0b01_0010;
            (flags == 0b00_0010).then_some(Event::Connection(to, port()?))
        }
        UDP if port()? == 53 => Some(Event::Query(name(data.get(8..)?)?)),
        UDP if port()? == 5353 => Some(Event::Multicast(name(data.get(8..)?)?)),
        UDP => Some(Event::Datagram(to, port()?)),
        // Neighbour discovery and group membership are the kernel's own packets.
        ICMP_V6 if matches!(data.first()?, 130..=137 | 143) => None,
        HOP_BY_HOP => None,
        _ => Some(Event::Other(format!("protocol {protocol} to {to}"))),
    }
}

/// The name in a query.
fn name(question: &[u8]) -> Option<String> {
    let mut labels = Vec::new();
    let mut rest = question.get(12..)?;
    loop {
        let (length, after) = rest.split_first()?;
        if *length == 0 {
            return Some(labels.join("."));
        }
        let (label, after) = after.split_at_checked(usize::from(*length))?;
        labels.push(String::from_utf8_lossy(label).into_owned());
        rest = after;
    }
}

/// The answer to a query: the monitor's address for IPv4, and no address for other types.
fn resolved(question: &[u8]) -> Option<Vec<u8>> {
    let name = name(question)?;
    // The name in labels with their lengths and the end, then type and class.
    let end = 12 + name.len() + 2 + 4;
    let asked = question.get(12..end)?;
    let kind = u16::from_be_bytes(asked[asked.len() - 4..asked.len() - 2].try_into().ok()?);
    let is_v4 = kind == 1;
    let mut answer = question[..2].to_vec();
    answer.extend([0x81, 0x80, 0, 1, 0, u8::from(is_v4), 0, 0, 0, 0]);
    answer.extend(asked);
    if is_v4 {
        let address: Ipv4Addr = OUTSIDE.parse().expect("an address is one");
        // A reference to the query's name; type A, class IN, no time to live.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}
