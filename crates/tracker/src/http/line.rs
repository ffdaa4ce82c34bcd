//! A connection's socket as tasks use it: it can be asked whether its client has hung up, whoever reads from it.

use std::{
    io,
    net::Shutdown,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use socket2::{Domain, SockRef, Socket};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::{TcpStream, UnixStream},
};

/// Cheap to share. Only one may read and write.
#[derive(Debug, Clone)]
pub(crate) struct Line(Arc<Ends>);

#[derive(Debug)]
enum Ends {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// The same for both kinds.
macro_rules! each {
    ($line:expr, $stream:ident => $body:expr) => {
        match &*$line.0 {
            Ends::Tcp($stream) => $body,
            Ends::Unix($stream) => $body,
        }
    };
}

impl Line {
    /// Of a socket that does not block.
    pub(crate) fn of(socket: Socket) -> io::Result<Self> {
        let ends = if socket.domain()? == Domain::UNIX {
            Ends::Unix(UnixStream::from_std(socket.into())?)
        } else {
            Ends::Tcp(TcpStream::from_std(socket.into())?)
        };
        Ok(Self(Arc::new(ends)))
    }

    /// Waits until the client sends nothing more, be it that what it has sent is still unread.
    pub(crate) async fn hung_up(&self) {
        // What is ready to be read is none of it; the end is.
        let _ = each!(self, stream => stream.ready(Interest::PRIORITY).await);
    }
}

impl From<TcpStream> for Line {
    fn from(stream: TcpStream) -> Self {
        Self(Arc::new(Ends::Tcp(stream)))
    }
}

impl AsyncRead for Line {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let read = each!(self, stream => {
                ready!(stream.poll_read_ready(context))?;
                stream.try_read_buf(to)
            });
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read.map(drop)),
            }
        }
    }
}

impl AsyncWrite for Line {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            let written = each!(self, stream => {
                ready!(stream.poll_write_ready(context))?;
                stream.try_write_vectored(slices)
            });
            match written {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(each!(self, stream => SockRef::from(stream).shutdown(Shutdown::Write)))
    }
}
