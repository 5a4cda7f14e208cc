//! What only so many processes of the host may have at a time, such as a GPU.
//!
//! A claim is an abstract Unix socket of a name, which the kernel gives once and takes back when
//! its process is gone, however that died. It needs no folder that all users may write in, and
//! tells who has it. It holds within a network namespace: containers do not see each other's.

use rustix::net::sockopt::socket_peercred;
use std::io::{Error, ErrorKind};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

/// A claim, until it is dropped or the process ends.
#[derive(Debug)]
pub struct Claim {
    _socket: UnixListener,
}

/// What became of asking for a claim.
#[derive(Debug)]
pub enum Claimed {
    /// It is this process's.
    Mine(Claim),
    /// All are taken, one of them by this process, where that can be told.
    Taken(Option<i32>),
}

impl Claim {
    /// Claims one of the `most` places of `name`.
    ///
    /// # Errors
    /// Where the system gives no such sockets.
    pub fn take(name: &str, most: usize) -> Result<Claimed, Error> {
        let mut holder = None;
        for place in 0..most {
            let address = SocketAddr::from_abstract_name(format!("backpropd/{name}/{place}"))?;
            match UnixListener::bind_addr(&address) {
                Ok(socket) => return Ok(Claimed::Mine(Claim { _socket: socket })),
                Err(e) if e.kind() == ErrorKind::AddrInUse => {
                    holder = holder.or_else(|| listener(&address));
                }
                Err(e) => return Err(e),
            }
        }
        Ok(Claimed::Taken(holder))
    }
}

/// The process that listens there.
fn listener(address: &SocketAddr) -> Option<i32> {
    let stream = UnixStream::connect_addr(address).ok()?;
    let holder = socket_peercred(&stream).ok()?;
    Some(holder.pid.as_raw_nonzero().get())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_have_it_and_who_comes_after_is_told_who() {
        let own = i32::try_from(std::process::id()).unwrap();
        let name = format!("test-{own}");
        let take = |most| Claim::take(&name, most).unwrap();
        let Claimed::Mine(first) = take(1) else {
            panic!("nobody has it");
        };
        assert!(matches!(take(1), Claimed::Taken(Some(pid)) if pid == own));
        let Claimed::Mine(_second) = take(2) else {
            panic!("there is another place");
        };
        assert!(matches!(take(2), Claimed::Taken(Some(_))));
        drop(first);
        assert!(matches!(take(1), Claimed::Mine(_)));
    }
}
