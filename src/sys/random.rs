//! Bytes that nobody can guess, from the kernel.

use rustix::io::Errno;
use rustix::rand::GetRandomFlags;

use super::dir::SysResult;

/// `N` random bytes, at most 256.
pub(crate) fn bytes<const N: usize>() -> SysResult<[u8; N]> {
    let mut bytes = [0; N];
    loop {
        match rustix::rand::getrandom(&mut bytes, GetRandomFlags::empty()) {
            Ok(length) if length == N => return Ok(bytes),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// `N` random bytes as lowercase hexadecimal digits.
pub(crate) fn hex<const N: usize>() -> SysResult<String> {
    bytes::<N>().map(hex::encode)
}
