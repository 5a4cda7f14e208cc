//! The thread that asks the driver. It may hang; it is then left alone.

use super::core::Input;
use super::nvml::{Look, NoDriver, Session};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};

/// Where answers and errors go.
#[derive(Clone)]
pub(super) struct Inbox(pub SyncSender<Input>);

impl Inbox {
    /// Delivers, waiting for room: the senders are threads of their own.
    pub fn send(&self, input: Input) {
        // A monitor that is gone needs no answer.
        let _ = self.0.send(input);
    }

    /// Makes the monitor look at its clock and its orders. A full queue does that, too.
    pub fn wake(&self) {
        let _ = self.0.try_send(Input::Time);
    }
}

/// The way to the thread. Dropping it ends the thread once it does not hang any more.
pub(super) struct Reader {
    questions: SyncSender<u64>,
}

impl Reader {
    /// Starts a thread whose answers carry `generation`.
    pub fn start(generation: u64, library: Option<PathBuf>, inbox: Inbox) -> std::io::Result<Self> {
        // One question at a time: the next is asked when the last is answered.
        let (questions, asked) = sync_channel(1);
        std::thread::Builder::new()
            .name("nvml".into())
            .spawn(move || {
                let mut session = None;
                for question in asked {
                    let answer = look(&mut session, library.as_deref(), generation, &inbox);
                    inbox.send(Input::Answer {
                        generation,
                        question,
                        answer,
                    });
                }
            })?;
        Ok(Self { questions })
    }

    /// Asks. The answer comes into the inbox, or never.
    pub fn ask(&self, question: u64) {
        // The thread takes a question before it can be asked the next one.
        let _ = self.questions.try_send(question);
    }
}

/// Looks through the open session, or a new one. What failed is closed, and opened again
/// for the next question.
fn look(
    session: &mut Option<Session>,
    library: Option<&Path>,
    generation: u64,
    inbox: &Inbox,
) -> Result<Look, NoDriver> {
    let open = match session.take() {
        Some(open) => open,
        None => Session::open(library, generation, inbox)?,
    };
    let look = open.look()?;
    *session = Some(open);
    Ok(look)
}
