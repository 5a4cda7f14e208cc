//! What a supervisor can be asked and told while it runs.

use super::super::child::{Post, Staffed};
use super::super::machine::Input;
use super::super::{CallError, Cause, Child, ChildRef, ChildSnapshot, Context, TreeError};
use super::Supervisor;
use actix::{Actor, ActorContext, Handler, Message};

/// Asks for the state of every child, in start order.
#[derive(Message)]
#[rtype(result = "Vec<ChildSnapshot>")]
pub struct GetChildren;

impl Handler<GetChildren> for Supervisor {
    type Result = Vec<ChildSnapshot>;

    fn handle(&mut self, _: GetChildren, _: &mut Context<Self>) -> Vec<ChildSnapshot> {
        self.observe();
        let members = self.machine.members().iter();
        members.filter_map(|member| self.snapshot(member)).collect()
    }
}

/// Adds a child to a running supervisor, after those that it has.
#[derive(Message)]
#[rtype(result = "Result<(), TreeError>")]
pub struct AddChild(Box<dyn Post>);

impl AddChild {
    /// Take the [`Child::handle`] first.
    pub fn new<A: Actor<Context = Context<A>>>(child: Child<A>) -> Self {
        Self(Box::new(Staffed::new(child)))
    }
}

impl Handler<AddChild> for Supervisor {
    type Result = Result<(), TreeError>;

    fn handle(&mut self, command: AddChild, ctx: &mut Context<Self>) -> Self::Result {
        let name = command.0.name().to_string();
        if self.machine.closing() {
            return Err(TreeError::Closing { name });
        }
        if self.id_of(&name).is_some() {
            return Err(TreeError::DuplicateChild { name });
        }
        let id = self.enlist(command.0);
        self.introduce(id, ctx);
        Ok(())
    }
}

/// Stops a child within its grace and forgets it; [`ChildRef::gone`] waits for that.
#[derive(Message)]
#[rtype(result = "Result<(), TreeError>")]
pub struct RemoveChild {
    /// Its name.
    pub name: String,
}

impl Handler<RemoveChild> for Supervisor {
    type Result = Result<(), TreeError>;

    fn handle(&mut self, command: RemoveChild, ctx: &mut Context<Self>) -> Self::Result {
        let RemoveChild { name } = command;
        let Some(id) = self.id_of(&name) else {
            return Err(TreeError::UnknownChild { name });
        };
        self.feed(Input::Remove { id }, ctx);
        Ok(())
    }
}

/// Starts a quarantined or stopped child again, its failures forgotten. One that is up, or
/// about to be, stays as it is.
#[derive(Message)]
#[rtype(result = "Result<(), TreeError>")]
pub struct ReleaseChild {
    /// Its name.
    pub name: String,
}

impl Handler<ReleaseChild> for Supervisor {
    type Result = Result<(), TreeError>;

    fn handle(&mut self, command: ReleaseChild, ctx: &mut Context<Self>) -> Self::Result {
        let ReleaseChild { name } = command;
        let Some(id) = self.id_of(&name) else {
            return Err(TreeError::UnknownChild { name });
        };
        self.feed(Input::Release { id }, ctx);
        Ok(())
    }
}

/// Stops all children, last started first, each within its grace, then the supervisor.
#[derive(Message)]
#[rtype(result = "()")]
pub struct ShutDown;

impl Handler<ShutDown> for Supervisor {
    type Result = ();

    fn handle(&mut self, _: ShutDown, ctx: &mut Context<Self>) {
        // `stopping` does the rest.
        ctx.stop();
    }
}

impl ChildRef<Supervisor> {
    /// Sends [`ShutDown`] and waits until it is carried out.
    ///
    /// # Errors
    /// When the supervisor is not there, or failed on the way.
    pub async fn shut_down(&self) -> Result<(), CallError> {
        let line = self.line()?;
        self.send(ShutDown).await?;
        line.life.ended().await;
        match line.life.fate() {
            Some(Cause::Stopped) | None => Ok(()),
            Some(_) => Err(line.life.down()),
        }
    }

    /// Waits until the supervisor that is up ends, and tells why. At the root of a tree
    /// nobody else would hear of an escalation.
    pub async fn ended(&self) -> Cause {
        let fate = match self.line() {
            Ok(line) => {
                line.life.ended().await;
                line.life.fate()
            }
            Err(CallError::Down { cause, .. }) => cause,
            Err(CallError::Quarantined { first, .. }) => Some(first),
            Err(_) => None,
        };
        fate.unwrap_or(Cause::Stopped)
    }
}
