package link

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"math/big"
	"time"

	"github.com/dayfly-run/dayfly/fault"
)

// applicationProtocol is what both sides must agree on inside TLS, so that a browser is turned away there.
const applicationProtocol = "dayfly-link"

// newKey makes what a parent proves itself with, and its pin. The key lives as long as the process and its
// certificate says nothing: the pin is what is believed.
func newKey() (*tls.Config, string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, "", fmt.Errorf("link: a key: %w: %w", fault.Internal, err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().AddDate(100, 0, 0)}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, "", fmt.Errorf("link: a certificate: %w: %w", fault.Internal, err)
	}
	parsed, err := x509.ParseCertificate(certificate)
	if err != nil {
		return nil, "", fmt.Errorf("link: a certificate: %w: %w", fault.Internal, err)
	}
	return &tls.Config{
		Certificates:                []tls.Certificate{{Certificate: [][]byte{certificate}, PrivateKey: key, Leaf: parsed}},
		MinVersion:                  tls.VersionTLS13,
		NextProtos:                  []string{applicationProtocol},
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true, // records that fit a packet are for browsers, which begin with the first one
	}, pinOf(parsed), nil
}

// pinned returns the configuration of a runner that believes the key with this pin and nothing else.
func pinned(pin string) *tls.Config {
	return &tls.Config{
		MinVersion:                  tls.VersionTLS13,
		NextProtos:                  []string{applicationProtocol},
		InsecureSkipVerify:          true, // no authority knows this key, and none could vouch for it better than the invitation
		DynamicRecordSizingDisabled: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) == 0 || subtle.ConstantTimeCompare([]byte(pinOf(state.PeerCertificates[0])), []byte(pin)) != 1 {
				return errOtherKey
			}
			return nil
		},
	}
}

var errOtherKey = fault.Say(fault.Denied, "link: who answers at the parent's address has another key than the invitation says")

// pinOf returns the SHA-256 of a certificate's public key, in hexadecimal.
func pinOf(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// newSecret returns 256 bits nobody knows, in hexadecimal.
func newSecret() string {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // never fails
	return hex.EncodeToString(secret)
}

// digest is what is kept of a secret, and compared.
type digest [sha256.Size]byte

func digestOf(secret string) digest { return sha256.Sum256([]byte(secret)) }

func (d digest) matches(secret string) bool {
	other := digestOf(secret)
	return subtle.ConstantTimeCompare(d[:], other[:]) == 1
}
