//! What a curious relay would write down. Tests read it to judge what can be learned; a node keeps
//! nothing of the kind.

use super::connections::Connection;
use super::*;
use crate::cell::{Body, CellRef, Command, decode_credits};

/// Something that a relay saw.
#[derive(Clone, Debug)]
pub struct Note {
    /// When.
    pub at: Duration,
    /// On the link to whom.
    pub friend: FriendKey,
    /// In which circuit or tunnel.
    pub circ: CircId,
    /// What it was.
    pub what: Noted,
}

/// What a relay can see.
#[derive(Clone, Debug)]
pub enum Noted {
    /// A link stands.
    Up,
    /// A cell came, with its body if that was wanted.
    Came(Command, Option<Box<Body>>),
    /// The friend takes so many cells more.
    Credit(u16),
    /// This node asked the friend for a circuit; `own`: for itself, which only tests may compare with
    /// what the friend believes.
    Began {
        /// For itself.
        own: bool,
    },
    /// A circuit that came in here goes on there.
    Goes(FriendKey, CircId),
    /// The builder named a time for the answer.
    Asked(Duration),
}

/// What was written down, and whether bodies are wanted.
#[derive(Debug, Default)]
pub struct Notes {
    /// In order.
    pub list: Vec<Note>,
    /// Keep bodies, too.
    pub bodies: bool,
}

impl Core {
    /// Starts to write down, or stops: what was written so far is returned.
    #[doc(hidden)]
    pub fn take_notes(&mut self, next: Option<Notes>) -> Option<Notes> {
        std::mem::replace(&mut self.notes, next.map(Box::new)).map(|notes| *notes)
    }

    /// What was written down since the last call.
    #[doc(hidden)]
    pub fn noted(&mut self) -> Vec<Note> {
        self.notes.as_mut().map(|notes| std::mem::take(&mut notes.list)).unwrap_or_default()
    }

    /// The onion key that a friend made for this node.
    #[doc(hidden)]
    pub fn onion_key_of(&self, friend: FriendKey) -> Option<(u16, [u8; 32])> {
        self.friends.get(&friend)?.onion.key
    }

    /// Says anything to the builder of a circuit that came from a friend and ends here.
    #[doc(hidden)]
    pub fn say_raw(&mut self, now: Now, friend: FriendKey, circ: CircId, payload: &[u8]) {
        if let Some(conn) = self.friends.get(&friend).and_then(|f| f.link) {
            self.tell_builder(now, (conn, circ), None, |body| {
                let (_, to) = body.split_at_mut(kith_crypto::circuit::STACK_LEN);
                to.iter_mut().zip(payload).for_each(|(to, from)| *to = *from);
            });
        }
    }

    pub(super) fn note(&mut self, now: Now, conn: ConnId, circ: CircId, what: Noted) {
        if self.notes.is_some()
            && let Some(friend) = self.friend_of(conn)
            && let Some(notes) = &mut self.notes
        {
            notes.list.push(Note { at: now.at, friend, circ, what });
        }
    }

    pub(super) fn note_cell(&mut self, now: Now, conn: ConnId, cell: &CellRef<'_>) {
        let Some(bodies) = self.notes.as_ref().map(|notes| notes.bodies) else { return };
        if self.connections.get(&conn).and_then(Connection::peek).is_none() {
            return;
        }
        if cell.command == Command::Credit {
            for (circ, cells) in decode_credits(cell.body).unwrap_or_default() {
                self.note(now, conn, circ, Noted::Credit(cells));
            }
        } else if cell.circ != 0 {
            let body = bodies.then(|| Box::new(*cell.body));
            self.note(now, conn, cell.circ, Noted::Came(cell.command, body));
        }
    }
}
