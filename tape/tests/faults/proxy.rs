//! A TCP proxy on loopback between clients and a broker that does what networks do: it cuts, delays, throttles, closes one half, and goes
//! silent in one direction. What it holds back is not lost: it comes when the fault is over, as TCP would send it again.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How soon a change of the weather is noticed.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
const PIECE_BYTES: usize = 16 << 10;

/// What the network is like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Weather {
    Fair,
    /// New connections are refused, old ones are cut.
    Down,
    /// Each piece of at most 16 KiB waits so long before it goes on.
    Slow {
        delay: Duration,
        bytes_per_second: u32,
    },
    /// What clients send does not arrive.
    SilentUp,
    /// What the broker sends does not arrive.
    SilentDown,
}

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Up,
    Down,
}

/// A proxy; it ends with the process.
pub struct Proxy {
    pub address: SocketAddr,
    inner: Arc<Inner>,
}

struct Inner {
    target: Mutex<Option<SocketAddr>>,
    weather: Mutex<Weather>,
    /// Client and broker ends of every connection.
    connections: Mutex<Vec<(TcpStream, TcpStream)>>,
}

impl Proxy {
    /// A proxy whose broker is named later: the broker must know the proxy's address first.
    pub fn start() -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let inner = Arc::new(Inner { target: Mutex::default(), weather: Mutex::new(Weather::Fair), connections: Mutex::default() });
        let accepting = inner.clone();
        std::thread::spawn(move || listener.incoming().flatten().for_each(|client| accepting.clone().connect(client)));
        Proxy { address, inner }
    }

    pub fn lead_to(&self, target: SocketAddr) {
        *self.inner.target.lock().expect("no panic") = Some(target);
    }

    pub fn set(&self, weather: Weather) {
        *self.inner.weather.lock().expect("no panic") = weather;
        if weather == Weather::Down {
            self.cut();
        }
    }

    /// Cuts every connection there is; new ones are let through.
    pub fn cut(&self) {
        for (client, broker) in self.inner.connections.lock().expect("no panic").drain(..) {
            let _ = client.shutdown(Shutdown::Both);
            let _ = broker.shutdown(Shutdown::Both);
        }
    }

    /// Tells the clients that the broker will send nothing more, and goes on taking what they send.
    pub fn close_half(&self) {
        for (client, _) in self.inner.connections.lock().expect("no panic").iter() {
            let _ = client.shutdown(Shutdown::Write);
        }
    }
}

impl Inner {
    fn weather(&self) -> Weather {
        *self.weather.lock().expect("no panic")
    }

    fn connect(self: Arc<Inner>, client: TcpStream) {
        let target = *self.target.lock().expect("no panic");
        let Some(target) = target.filter(|_| self.weather() != Weather::Down) else { return };
        let Ok(broker) = TcpStream::connect(target) else { return };
        for stream in [&client, &broker] {
            stream.set_nodelay(true).expect("a TCP stream");
            stream.set_read_timeout(Some(LOOK_AGAIN)).expect("a TCP stream");
        }
        let copy = |stream: &TcpStream| stream.try_clone().expect("a second handle");
        self.connections.lock().expect("no panic").push((copy(&client), copy(&broker)));
        let (up, down) = (self.clone(), self);
        let (from, to) = (copy(&client), copy(&broker));
        std::thread::spawn(move || up.pump(from, to, Way::Up));
        std::thread::spawn(move || down.pump(broker, client, Way::Down));
    }

    /// Carries bytes one way until either end closes.
    fn pump(&self, mut from: TcpStream, mut to: TcpStream, way: Way) {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            match self.weather() {
                Weather::SilentUp if way == Way::Up => std::thread::sleep(LOOK_AGAIN),
                Weather::SilentDown if way == Way::Down => std::thread::sleep(LOOK_AGAIN),
                weather => match from.read(&mut piece) {
                    Ok(0) => break,
                    Ok(length) => {
                        if let Weather::Slow { delay, bytes_per_second } = weather {
                            std::thread::sleep(delay + Duration::from_secs(length as u64) / bytes_per_second);
                        }
                        if to.write_all(&piece[..length]).is_err() {
                            break;
                        }
                    }
                    Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                    Err(_) => break,
                },
            }
        }
        let _ = to.shutdown(Shutdown::Write);
        let _ = from.shutdown(Shutdown::Read);
    }
}
