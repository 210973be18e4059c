//! Who may have a resource next.
//!
//! A task's place in a line is its number. A resource is busy for a task when somebody owns it, or when
//! an earlier task stands in its line. A task takes all its resources or none.

use std::collections::{BTreeMap, BTreeSet};

use super::ids::{ResourceName, TaskId, Token};

/// A resource whose row the deciding transaction has locked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockedResource {
    /// The task that owns it.
    pub owner_task: Option<TaskId>,
    /// Its counter.
    pub token: Token,
    /// The first in its line, read after the lock was taken.
    pub head: Option<TaskId>,
}

/// What becomes of a candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// It takes all its resources; the largest of their tokens.
    Take {
        /// What the next token has to be larger than.
        stored: Token,
    },
    /// It stands behind others; the resource that keeps it waiting.
    Behind(ResourceName),
    /// Another transaction holds one of its resources: leave it as it is, that one or the next poll
    /// will see it.
    Unknown,
}

/// Decides one candidate after the other, in their order; a resource that was given out in this round
/// is busy for those that follow.
#[derive(Debug, Default)]
pub struct Round {
    taken: BTreeSet<ResourceName>,
}

impl Round {
    /// The place of `task`, which names `wants`.
    pub fn place(
        &mut self,
        task: TaskId,
        wants: &[ResourceName],
        locked: &BTreeMap<ResourceName, LockedResource>,
    ) -> Place {
        let mut stored = Token::ZERO;
        let mut unknown = false;
        for name in wants {
            let Some(resource) = locked.get(name) else {
                unknown = true;
                continue;
            };
            let behind = resource.owner_task.is_some()
                || self.taken.contains(name)
                || resource.head.is_some_and(|head| head < task);
            if behind {
                return Place::Behind(name.clone());
            }
            stored = stored.max(resource.token);
        }
        if unknown {
            return Place::Unknown;
        }
        self.taken.extend(wants.iter().cloned());
        Place::Take { stored }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ResourceName {
        ResourceName::new(text).unwrap()
    }
    fn free(head: i64, token: i64) -> LockedResource {
        LockedResource { owner_task: None, token: Token::new(token), head: Some(TaskId::new(head)) }
    }

    #[test]
    fn the_head_of_all_its_lines_takes_them_with_the_largest_token() {
        let locked = BTreeMap::from([(name("a"), free(1, 5)), (name("b"), free(1, 9))]);
        let got = Round::default().place(TaskId::new(1), &[name("a"), name("b")], &locked);
        assert_eq!(got, Place::Take { stored: Token::new(9) });
    }

    #[test]
    fn one_busy_resource_keeps_it_from_all() {
        let mut busy = free(2, 1);
        busy.owner_task = Some(TaskId::new(1));
        let locked = BTreeMap::from([(name("a"), free(2, 1)), (name("b"), busy)]);
        let mut round = Round::default();
        assert_eq!(round.place(TaskId::new(2), &[name("a"), name("b")], &locked), Place::Behind(name("b")));
        assert_eq!(round.place(TaskId::new(3), &[name("a")], &locked), Place::Behind(name("a")), "2 stands before 3");
    }

    #[test]
    fn a_resource_is_given_out_once_a_round() {
        let locked = BTreeMap::from([(name("a"), free(1, 1))]);
        let mut round = Round::default();
        assert!(matches!(round.place(TaskId::new(1), &[name("a")], &locked), Place::Take { .. }));
        assert_eq!(round.place(TaskId::new(2), &[name("a")], &locked), Place::Behind(name("a")));
    }

    #[test]
    fn a_resource_that_another_holds_leaves_the_task_alone() {
        assert_eq!(Round::default().place(TaskId::new(1), &[name("a")], &BTreeMap::new()), Place::Unknown);
    }
}
