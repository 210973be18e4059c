//! What the guard knows of its engine: all of it told by the engine itself.

use std::time::Duration;

use super::link::Notice;
use super::tree::{self, Proc};
use crate::protocol::ids::Incarnation;
use crate::protocol::time::LeaseInstant;

/// The sum of all messages so far.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// Whose death is to be proved.
    current: Option<Incarnation>,
    /// The one before, until a renewal shows that the current one is registered.
    former: Option<Incarnation>,
    deadline: Option<LeaseInstant>,
    continuing: Vec<Proc>,
    goodbye: Option<i32>,
}

impl Heard {
    /// Takes one message in. After a goodbye the engine has `kill_budget` to exit.
    pub(crate) fn hear(&mut self, notice: Notice, now: LeaseInstant, kill_budget: Duration) {
        match notice {
            Notice::Registered(incarnation) => {
                // Told before the registration is sent. Of several attempts only the first has a former
                // incarnation worth proving.
                if self.current != Some(incarnation) {
                    self.former = self.former.or(self.current);
                }
                self.current = Some(incarnation);
            }
            Notice::Renew(deadline) => {
                self.former = None;
                self.deadline = Some(deadline);
            }
            Notice::AllClear(spared) => {
                self.deadline = None;
                self.continuing = name_for_good(&spared);
            }
            Notice::Continue(pids) => self.continuing = name_for_good(&pids),
            Notice::Goodbye(code) => {
                self.goodbye = Some(code);
                self.deadline = Some(now.after(kill_budget));
            }
            // For the manager: passed on, and no part of what the guard acts on.
            Notice::Unit(..) => {}
        }
    }

    /// When the guard acts; `None` before the first lease, and after "all clear".
    pub(crate) const fn deadline(&self) -> Option<LeaseInstant> {
        self.deadline
    }

    /// The incarnations whose death is to be proved.
    pub(crate) fn to_prove(&self) -> impl Iterator<Item = Incarnation> {
        let is_owed = self.goodbye.is_none();
        self.former.into_iter().chain(self.current).filter(move |_| is_owed)
    }

    /// What is spared when a frozen engine is killed.
    pub(crate) fn continuing(&self) -> &[Proc] {
        &self.continuing
    }

    /// The exit code of an engine that ended in good order.
    pub(crate) const fn goodbye(&self) -> Option<i32> {
        self.goodbye
    }
}

/// Looked up while the engine holds them, because a number alone may be another's by the time it counts.
fn name_for_good(pids: &[i32]) -> Vec<Proc> {
    pids.iter().filter_map(|pid| tree::read(*pid)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const K: Duration = Duration::from_secs(2);

    fn at(s: u64) -> LeaseInstant {
        LeaseInstant::from_ns(s * 1_000_000_000)
    }

    fn heard(notices: &[Notice]) -> Heard {
        let mut heard = Heard::default();
        notices.iter().for_each(|n| heard.hear(n.clone(), at(100), K));
        heard
    }

    fn proved(notices: &[Notice]) -> Vec<i64> {
        heard(notices).to_prove().map(Incarnation::as_i64).collect()
    }

    fn registered(n: i64) -> Notice {
        Notice::Registered(Incarnation::new(n))
    }

    #[test]
    fn a_former_incarnation_is_proved_until_the_new_one_beats() {
        assert_eq!(proved(&[]), Vec::<i64>::new());
        assert_eq!(proved(&[registered(1), Notice::Renew(at(5))]), [1]);
        assert_eq!(proved(&[registered(1), Notice::Renew(at(5)), registered(2)]), [1, 2]);
        assert_eq!(proved(&[registered(1), Notice::Renew(at(5)), registered(2), registered(3)]), [1, 3]);
        assert_eq!(proved(&[registered(1), registered(2), Notice::Renew(at(5))]), [2]);
        assert_eq!(proved(&[registered(1), registered(1)]), [1]);
    }

    #[test]
    fn there_is_no_deadline_before_the_first_lease_and_after_all_clear() {
        assert_eq!(heard(&[registered(1)]).deadline(), None);
        assert_eq!(heard(&[registered(1), Notice::Renew(at(5))]).deadline(), Some(at(5)));
        assert_eq!(heard(&[Notice::Renew(at(5)), Notice::AllClear(vec![])]).deadline(), None);
        assert_eq!(heard(&[Notice::AllClear(vec![]), Notice::Renew(at(7))]).deadline(), Some(at(7)));
    }

    #[test]
    fn after_a_goodbye_nothing_is_proved_and_the_exit_is_awaited_for_the_kill_budget() {
        let heard = heard(&[registered(1), Notice::Renew(at(500)), Notice::Goodbye(0)]);
        assert_eq!((heard.deadline(), heard.goodbye(), heard.to_prove().count()), (Some(at(102)), Some(0), 0));
    }
}
