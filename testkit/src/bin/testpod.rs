// SPDX-License-Identifier: Apache-2.0
//! The process in each Pod of the test LAN: tells every client who answered and whom it saw.
//!
//! TCP: waits for the first bytes; an HTTP GET gets a 200 with the line as its body, anything else the
//! bare line; then it closes. UDP: one line a datagram. The line is `NAME CLIENT-ADDRESS`; a datagram
//! that starts with `#` comes back behind it, so that a client can match answers with questions.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};

const USAGE: &str = "usage: berth-testpod --name NAME [--tcp PORT]... [--udp PORT]... [--linger SECONDS]";
/// A client that sends nothing does not hold its thread for longer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Threads here do next to nothing; hundreds of Pods share a small machine.
const STACK: usize = 64 * 1024;

struct Arguments {
    name: String,
    tcp: Vec<u16>,
    udp: Vec<u16>,
    linger: Duration,
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("berth-testpod: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match serve(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("berth-testpod {}: {error}", arguments.name);
            ExitCode::FAILURE
        }
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = Arguments {
        name: String::new(),
        tcp: Vec::new(),
        udp: Vec::new(),
        linger: Duration::ZERO,
    };
    while let Some(flag) = words.next() {
        let value = words.next().ok_or_else(|| format!("{flag} needs a value"))?;
        let port = || {
            value
                .parse::<u16>()
                .map_err(|error| format!("{flag} {value}: {error}"))
        };
        match flag.as_str() {
            "--name" => arguments.name = value,
            "--tcp" => arguments.tcp.push(port()?),
            "--udp" => arguments.udp.push(port()?),
            "--linger" => arguments.linger = linger(&value)?,
            _ => return Err(format!("unknown flag {flag}")),
        }
    }
    if arguments.name.is_empty() {
        Err("--name is missing".to_owned())
    } else {
        Ok(arguments)
    }
}

fn linger(seconds: &str) -> Result<Duration, String> {
    seconds
        .parse()
        .map(Duration::from_secs)
        .map_err(|error| format!("--linger {seconds}: {error}"))
}

fn serve(arguments: &Arguments) -> io::Result<()> {
    let mut term = SigSet::empty();
    term.add(Signal::SIGTERM);
    // Before any thread starts, so that all of them leave the signal to the wait below.
    term.thread_block()?;
    let name: Arc<str> = arguments.name.as_str().into();
    for port in &arguments.tcp {
        let listener = bind(*port, TcpListener::bind)?;
        let name = Arc::clone(&name);
        start(move || accept(&listener, &name))?;
    }
    for port in &arguments.udp {
        let socket = bind(*port, UdpSocket::bind)?;
        let name = Arc::clone(&name);
        start(move || datagrams(&socket, &name))?;
    }
    println!("listening");
    term.wait()?;
    thread::sleep(arguments.linger);
    Ok(())
}

/// `[::]` takes both families (net.ipv6.bindv6only is 0 in a new namespace); a Pod without IPv6 gets 0.0.0.0.
fn bind<T>(port: u16, open: fn(SocketAddr) -> io::Result<T>) -> io::Result<T> {
    match open((Ipv6Addr::UNSPECIFIED, port).into()) {
        Err(error) if !matches!(error.kind(), ErrorKind::AddrInUse | ErrorKind::PermissionDenied) => {
            open((Ipv4Addr::UNSPECIFIED, port).into())
        }
        opened => opened,
    }
}

fn start(body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().stack_size(STACK).spawn(body).map(|_| ())
}

fn accept(listener: &TcpListener, name: &Arc<str>) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            // Out of descriptors: connections that end give some back.
            thread::sleep(Duration::from_millis(10));
            continue;
        };
        let name = Arc::clone(name);
        let answered = start(move || {
            // A client that went away is no concern of a Pod.
            let _gone = answer(stream, &name);
        });
        if let Err(error) = answered {
            eprintln!("no thread for a connection: {error}");
        }
    }
}

fn answer(mut stream: TcpStream, name: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let client = stream.peer_addr()?.ip().to_canonical();
    let mut request = [0; 2048];
    let mut length = stream.read(&mut request)?;
    let line = format!("{name} {client}\n");
    if !request[..length].starts_with(b"GET ") {
        return stream.write_all(line.as_bytes());
    }
    while length < request.len() && !request[..length].windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut request[length..])? {
            0 => break,
            more => length += more,
        }
    }
    let size = line.len();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {size}\r\n");
    stream.write_all(format!("{head}connection: close\r\n\r\n{line}").as_bytes())
}

fn datagrams(socket: &UdpSocket, name: &str) {
    let mut datagram = [0; 512];
    loop {
        // An error here is an earlier answer's ICMP message: nothing to do about it.
        let Ok((length, client)) = socket.recv_from(&mut datagram) else {
            continue;
        };
        let mut answer = format!("{name} {}", client.ip().to_canonical()).into_bytes();
        if datagram[..length].starts_with(b"#") {
            answer.push(b' ');
            answer.extend_from_slice(datagram[..length].trim_ascii_end());
        }
        answer.push(b'\n');
        let _gone = socket.send_to(&answer, client);
    }
}
