//! Who sees every packet that leaves the farm's namespace, answers its questions for names, and
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

use super::namespace::{self, OUTSIDE, StageError, V4};

/// What the kernel marks packets with that the own side sends.
const OUTGOING: u8 = 4;

/// Something that left the farm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// The first packet of a TCP connection.
    Connection(IpAddr, u16),
    /// A UDP datagram to any port but the name server's.
    Datagram(IpAddr, u16),
    /// A question for a name.
    Query(String),
    /// A name that a group is asked for, or told.
    Multicast(String),
    /// Whatever else.
    Other(String),
}

/// The witness' thread and what it has seen.
#[derive(Debug)]
pub(crate) struct Witness {
    seen: Arc<Mutex<Vec<Event>>>,
    thread: i32,
    open: mpsc::Sender<()>,
    opened: mpsc::Receiver<Result<(), StageError>>,
    stop: Arc<AtomicBool>,
    task: Option<JoinHandle<()>>,
}

impl Witness {
    /// Starts the thread in a namespace of its own.
    pub(super) fn start() -> Result<Self, StageError> {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (open, to_open) = mpsc::channel();
        let (told, opened) = mpsc::channel();
        let (born, birth) = mpsc::channel();
        let (notes, end) = (Arc::clone(&seen), Arc::clone(&stop));
        let task = std::thread::spawn(move || {
            let left = namespace::leave();
            let there = left.is_ok();
            // Fails when nobody waits any more.
            _ = born.send(left);
            if there && to_open.recv().is_ok() {
                let watching = Watching::open();
                let watching = watching.map_err(|error| _ = told.send(Err(error)));
                if let Ok(watching) = watching {
                    _ = told.send(Ok(()));
                    watching.until(&end, &notes);
                }
            }
        });
        let thread = birth.recv().map_err(|_| StageError::Witness)??;
        Ok(Self {
            seen,
            thread,
            open,
            opened,
            stop,
            task: Some(task),
        })
    }

    /// The thread's number, by which its namespace is known.
    pub(super) fn thread(&self) -> i32 {
        self.thread
    }

    /// Begins to watch: the cable is there.
    pub(super) fn open(&self) -> Result<(), StageError> {
        self.open.send(()).map_err(|_| StageError::Witness)?;
        self.opened.recv().map_err(|_| StageError::Witness)?
    }

    /// How much was seen so far.
    pub(crate) fn mark(&self) -> usize {
        self.seen.lock().expect("nobody panics with it").len()
    }

    /// What was seen since.
    pub(crate) fn since(&self, mark: usize) -> Vec<Event> {
        self.seen.lock().expect("nobody panics with it")[mark..].to_vec()
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(task) = self.task.take() {
            // It has no reason to panic; and if it did, there is nothing left to do.
            _ = task.join();
        }
    }
}

/// The sockets of the thread.
struct Watching {
    packets: std::os::fd::OwnedFd,
    names: UdpSocket,
}

impl Watching {
    fn open() -> Result<Self, StageError> {
        // Before the cable is furnished, so that nothing is missed.
        let packets = socket(
            AddressFamily::Packet,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::EthAll,
        )
        .map_err(|error| StageError::System("a packet socket", error))?;
        let wait = TimeVal::milliseconds(10);
        setsockopt(&packets, ReceiveTimeout, &wait)
            .map_err(|error| StageError::System("a packet socket", error))?;
        namespace::furnish()?;
        let names = UdpSocket::bind((V4, 53)).map_err(|e| StageError::Io("port 53", e))?;
        names
            .set_nonblocking(true)
            .map_err(|e| StageError::Io("port 53", e))?;
        Ok(Self { packets, names })
    }

    fn until(&self, stop: &AtomicBool, seen: &Mutex<Vec<Event>>) {
        let mut packet = [0; 2048];
        while !stop.load(Ordering::Relaxed) {
            // Waits for a glance at most: the socket's own time limit.
            if let Ok((length, from)) = recvfrom::<LinkAddr>(self.packets.as_raw_fd(), &mut packet)
                && from.is_some_and(|from| from.pkttype() != OUTGOING)
                && let Some(event) = read(&packet[..length])
            {
                seen.lock().expect("nobody panics with it").push(event);
            }
            self.answer();
        }
    }

    /// Answers every question for a name with an address of the witness.
    fn answer(&self) {
        let mut question = [0; 512];
        loop {
            match self.names.recv_from(&mut question) {
                Ok((length, from)) => {
                    if let Some(answer) = resolved(&question[..length]) {
                        // Who asked may be gone.
                        _ = self.names.send_to(&answer, from);
                    }
                }
                // Nothing more has come; what went wrong is tried again at the next glance.
                Err(_) => return,
            }
        }
    }
}

/// Reads an IP packet; none is what the kernel says by itself, and the rest of a connection.
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
        // Who has an address is asked by the kernel (ARP).
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
        // Neighbours and groups are the kernel's own talk.
        ICMP_V6 if matches!(data.first()?, 130..=137 | 143) => None,
        HOP_BY_HOP => None,
        _ => Some(Event::Other(format!("protocol {protocol} to {to}"))),
    }
}

/// The name that a question is about.
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

/// The answer to a question: the witness, for whoever asks for IPv4; nothing for the rest.
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
        // The name is that of the question; type A, class IN, no time to live.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}
