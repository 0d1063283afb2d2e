//! A connection, plain or TLS. Nobody's certificate is checked: the probe asks whether the server answers, as kubelet's.

use super::response::HttpError;
use crate::dial::{ends, reason, stream_error};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, IpAddr as ServerIp, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error as TlsError, SignatureScheme};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

#[derive(Debug)]
pub(crate) struct Stream {
    ends: String,
    io: Io,
}

#[derive(Debug)]
enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<Watched>>),
}

impl Stream {
    pub(crate) fn plain(stream: TcpStream) -> Stream {
        Stream { ends: ends(&stream), io: Io::Plain(stream) }
    }

    pub(crate) async fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match &mut self.io {
            Io::Plain(stream) => stream.read(bytes).await,
            Io::Tls(stream) => match stream.read(bytes).await {
                // Closed without a goodbye: common, and good enough for Go.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
                other => other,
            },
        }
    }

    pub(crate) async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.io {
            Io::Plain(stream) => stream.write_all(bytes).await,
            Io::Tls(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await
            }
        }
    }

    /// Go's text of an error on this connection.
    pub(crate) fn text(&self, verb: &str, error: &io::Error) -> HttpError {
        HttpError(match tls_error(error) {
            Some(tls) => tls_text(tls),
            None => stream_error(verb, &self.ends, error),
        })
    }
}

/// Shakes hands. A server name is sent for names only, never for addresses.
pub(crate) async fn tls(stream: TcpStream, host: &str) -> Result<Stream, HttpError> {
    let (name, named) = match host.parse::<IpAddr>() {
        Ok(ip) => (ServerName::IpAddress(ServerIp::from(ip)), false),
        Err(_) => match ServerName::try_from(host.to_owned()) {
            Ok(name) => (name, true),
            Err(_) => (ServerName::IpAddress(ServerIp::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED))), false),
        },
    };
    let config = config(named).map_err(|error| HttpError(tls_text(&error)))?;
    let ends = ends(&stream);
    let mut connecting = TlsConnector::from(Arc::new(config))
        .connect(name, Watched { stream, first: [0; FIRST_BYTES], seen: 0 })
        .into_fallible();
    match (&mut connecting).await {
        Ok(stream) => Ok(Stream { ends, io: Io::Tls(Box::new(stream)) }),
        Err((error, watched)) => Err(HttpError(watched.handshake_text(&error, &ends))),
    }
}

fn config(named: bool) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    config.enable_sni = named;
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A TLS record's header.
const FIRST_BYTES: usize = 5;

/// Remembers the first bytes that the server sent: they tell a plain HTTP server from other strangers.
#[derive(Debug)]
pub(crate) struct Watched {
    stream: TcpStream,
    first: [u8; FIRST_BYTES],
    seen: usize,
}

impl Watched {
    fn handshake_text(&self, error: &io::Error, ends: &str) -> String {
        if self.seen == FIRST_BYTES && &self.first == b"HTTP/" {
            return "http: server gave HTTP response to HTTPS client".to_owned();
        }
        // Change cipher spec to application data, major version 3.
        let is_tls = matches!(self.first, [20..=23, 3, ..]);
        if self.seen == FIRST_BYTES && !is_tls {
            return "tls: first record does not look like a TLS handshake".to_owned();
        }
        match tls_error(error) {
            Some(tls) => tls_text(tls),
            None if error.kind() == io::ErrorKind::UnexpectedEof => "EOF".to_owned(),
            None if error.raw_os_error().is_some() => stream_error("read", ends, error),
            None => format!("tls: {}", reason(error)),
        }
    }
}

fn tls_error(error: &io::Error) -> Option<&TlsError> {
    error.get_ref()?.downcast_ref::<TlsError>()
}

fn tls_text(error: &TlsError) -> String {
    match error {
        TlsError::AlertReceived(alert) => {
            let words: String = format!("{alert:?}").chars().fold(String::new(), |mut words, c| {
                if c.is_uppercase() && !words.is_empty() {
                    words.push(' ');
                }
                words.push(c.to_ascii_lowercase());
                words
            });
            format!("remote error: tls: {words}")
        }
        other => format!("tls: {other}"),
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let done = Pin::new(&mut self.stream).poll_read(context, buffer);
        let new = &buffer.filled()[before..];
        let seen = self.seen;
        let more = new.len().min(FIRST_BYTES - seen);
        self.first[seen..seen + more].copy_from_slice(&new[..more]);
        self.seen += more;
        done
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
