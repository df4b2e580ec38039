//! No backtraces: 256 KB of the init that nobody could ever read a line from.
//!
//! In: the standard library's panic hook, which walks the stack and reads DWARF of the running program. Out: an
//! empty walk. The unwind tables are left out of the init, so a walk would end at its first step anyway; said here,
//! the compiler knows it too and leaves out the unwinder, the DWARF reader and the demangler. Failure: none; a panic
//! prints its message and place as ever, and aborts.
//!
//! Names and shapes are those of the Itanium C++ ABI, exception handling, level I. libunwind defines all of them in
//! two objects, so one that is missing here brings its object, and the link ends with a symbol that is there twice.

#![cfg(all(panic = "abort", target_env = "musl"))]

use std::ffi::{c_int, c_void};

/// `_URC_END_OF_STACK`
const END_OF_STACK: c_int = 5;

/// Walks no frame.
// SAFETY: the name is the linker's; libunwind, which has it too, is not linked.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Backtrace(_trace: *const c_void, _argument: *mut c_void) -> c_int {
    END_OF_STACK
}

/// What only a frame of a walk, or an exception on its way, could call.
macro_rules! never_called {
    ($($name:ident($($argument:ty),*) -> $result:ty;)*) => {$(
        // SAFETY: as above.
        #[unsafe(no_mangle)]
        extern "C" fn $name($(_: $argument),*) -> $result {
            std::process::abort()
        }
    )*};
}

never_called! {
    _Unwind_GetDataRelBase(*mut c_void) -> usize;
    _Unwind_GetIP(*mut c_void) -> usize;
    _Unwind_GetIPInfo(*mut c_void, *mut c_int) -> usize;
    _Unwind_GetLanguageSpecificData(*mut c_void) -> *mut c_void;
    _Unwind_GetRegionStart(*mut c_void) -> usize;
    _Unwind_GetTextRelBase(*mut c_void) -> usize;
    _Unwind_Resume(*mut c_void) -> !;
    _Unwind_SetGR(*mut c_void, c_int, usize) -> ();
    _Unwind_SetIP(*mut c_void, usize) -> ();
}
