//! Both ends of a TCP connection.

use std::net::SocketAddr;

use kbe_nat_engine::{Action, Cause, Verdict};

use super::bytes::*;
use super::{Cast as _, Family, Scene};

/// A TCP connection through a frontend, seen from both ends.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) client: SocketAddr,
    pub(crate) vip: SocketAddr,
    /// The client as its backend sees it.
    pub(crate) source: SocketAddr,
    pub(crate) backend: SocketAddr,
    /// What the client and the backend send next.
    pub(crate) seq: [u32; 2],
}

/// Close to the end of the sequence space, so that every longer test runs over it.
const FIRST_SEQ: [u32; 2] = [u32::MAX - 5, u32::MAX - 9];

impl Connection {
    /// The SYN; the verdict if it is not sent on.
    pub(crate) fn begin(
        scene: &mut Scene,
        client: SocketAddr,
        vip: SocketAddr,
    ) -> Result<Self, Verdict> {
        let (verdict, packet) = scene.send(tcp(client, vip, &Tcp::new(SYN, FIRST_SEQ[0], 0)));
        if verdict.action != Action::Translate {
            return Err(verdict);
        }
        assert_intact(&packet);
        let (source, backend) = ends(&packet);
        let seq = [FIRST_SEQ[0].wrapping_add(1), FIRST_SEQ[1]];
        Ok(Self { client, vip, source, backend, seq })
    }

    /// The rest of the handshake.
    #[track_caller]
    pub(crate) fn complete(mut self, scene: &mut Scene) -> Self {
        assert_eq!(self.server(scene, SYN | ACK, b"").cause, Cause::Established);
        assert_eq!(self.client(scene, ACK, b"").cause, Cause::Established);
        self
    }

    #[track_caller]
    pub(crate) fn establish(scene: &mut Scene, client: SocketAddr, vip: SocketAddr) -> Self {
        Self::begin(scene, client, vip).expect("the SYN is sent on").complete(scene)
    }

    /// An established connection of the first client in IPv4.
    #[track_caller]
    pub(crate) fn sole(scene: &mut Scene) -> Self {
        Self::establish(scene, Family::V4.client(1, 5555), Family::V4.vip())
    }

    /// The next segment of the client.
    #[track_caller]
    pub(crate) fn client(&mut self, scene: &mut Scene, flags: u8, payload: &[u8]) -> Verdict {
        let segment = self.next(0, flags, payload);
        self.client_segment(scene, &segment)
    }

    /// The next segment of the backend.
    #[track_caller]
    pub(crate) fn server(&mut self, scene: &mut Scene, flags: u8, payload: &[u8]) -> Verdict {
        let segment = self.next(1, flags, payload);
        self.server_segment(scene, &segment)
    }

    /// Any segment of the client; translated, it must reach the backend.
    #[track_caller]
    pub(crate) fn client_segment(&self, scene: &mut Scene, segment: &Tcp) -> Verdict {
        let (verdict, packet) = scene.send(tcp(self.client, self.vip, segment));
        if verdict.action == Action::Translate {
            assert_intact(&packet);
            assert_eq!(ends(&packet), (self.source, self.backend));
        }
        verdict
    }

    /// Any segment of the backend; it must come from the frontend, or not at all (F47).
    #[track_caller]
    pub(crate) fn server_segment(&self, scene: &mut Scene, segment: &Tcp) -> Verdict {
        let (verdict, packet) = scene.send(tcp(self.backend, self.source, segment));
        if verdict.action == Action::Translate {
            assert_intact(&packet);
            assert_eq!(ends(&packet), (self.vip, self.client));
        } else {
            assert_eq!(verdict.action, Action::Drop, "a reply leaks with the address of its pod");
        }
        verdict
    }

    fn next(&mut self, side: usize, flags: u8, payload: &[u8]) -> Tcp {
        let ack = if flags & ACK == 0 { 0 } else { self.seq[1 - side] };
        let segment = Tcp { payload: payload.to_vec(), ..Tcp::new(flags, self.seq[side], ack) };
        let length =
            payload.len() as u32 + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        self.seq[side] = self.seq[side].wrapping_add(length);
        segment
    }

    /// FIN and ACK both ways, the client first.
    #[track_caller]
    pub(crate) fn close(&mut self, scene: &mut Scene) {
        let _ = self.client(scene, FIN | ACK, b"");
        let _ = self.server(scene, ACK, b"");
        let _ = self.server(scene, FIN | ACK, b"");
        let _ = self.client(scene, ACK, b"");
    }
}
