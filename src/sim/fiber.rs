//! Loops as coroutines: each has its own stack and runs until it would block.
//!
//! The real loops of the engine run here unchanged; [`crate::turns`] leads here what would block.

use std::cell::{Cell, RefCell};

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, Yielder};

/// A loop that was suspended, or has not begun.
pub(super) type Fiber = Coroutine<(), (), (), DefaultStack>;

/// Debug builds have large frames; the pages are only taken when they are used.
const STACK: usize = 512 << 10;

thread_local! {
    static STACKS: RefCell<Vec<DefaultStack>> = const { RefCell::new(Vec::new()) };
    static CURRENT: Cell<Option<(usize, *const Yielder<(), ()>)>> = const { Cell::new(None) };
}

/// A loop that begins with its first turn.
pub(super) fn new(id: usize, body: impl FnOnce() + 'static) -> Fiber {
    let stack = STACKS.with_borrow_mut(Vec::pop);
    let stack = stack.unwrap_or_else(|| DefaultStack::new(STACK).expect("the host has memory for a stack"));
    Coroutine::with_stack(stack, move |yielder, ()| {
        CURRENT.set(Some((id, yielder)));
        body();
    })
}

/// Lets it run until it gives its turn back; whether it has ended.
pub(super) fn resume(id: usize, fiber: &mut Fiber, yielder: &mut Option<*const Yielder<(), ()>>) -> bool {
    CURRENT.set(yielder.map(|yielder| (id, yielder)));
    let result = fiber.resume(());
    *yielder = CURRENT.take().map(|(_, yielder)| yielder).or(*yielder);
    result.as_return().is_some()
}

/// Which loop runs now.
pub(super) fn current() -> Option<usize> {
    CURRENT.get().map(|(id, _)| id)
}

/// Gives the turn back.
pub(super) fn suspend() {
    let Some((_, yielder)) = CURRENT.get() else { return };
    // SAFETY: the yielder lives on the stack of the coroutine that runs now, as long as that does; it was
    // stored when the coroutine got its turn, and taken back when that ended.
    unsafe { &*yielder }.suspend(());
}

/// Ends it where it stands; its destructors run.
pub(super) fn end(mut fiber: Fiber) {
    CURRENT.set(None);
    if fiber.started() && !fiber.done() {
        fiber.force_unwind();
    }
    if fiber.done() {
        let stack = fiber.into_stack();
        STACKS.with_borrow_mut(|stacks| stacks.push(stack));
    }
}
