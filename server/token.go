package server

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/api"
	"github.com/dayfly-run/dayfly/internal/store"
)

// ownerToken returns the token in the data directory, making it if there is none. Two processes that race for it get
// the same one.
func ownerToken(dir string) (string, error) {
	file := filepath.Join(dir, "token")
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		if err := writeOwnerToken(dir, file); err != nil {
			return "", fmt.Errorf("server: making the owner's token: %w", err)
		}
		data, err = os.ReadFile(file)
	}
	if err != nil {
		return "", fmt.Errorf("server: reading the owner's token: %w", err)
	}
	token := strings.TrimSpace(string(data))
	if len(token) < 32 {
		return "", fault.Say(fault.Invalid, "%s does not hold a token; remove it, and the server makes a new one", file)
	}
	return token, nil
}

// writeOwnerToken writes a fresh token beside its place and links it there, so that the file is whole the moment it
// has its name and the first of several processes wins.
func writeOwnerToken(dir, file string) error {
	secret := make([]byte, 32)
	rand.Read(secret) // never fails: see crypto/rand
	temp, err := os.CreateTemp(dir, ".token-*")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	_, err = temp.WriteString("dfo_" + base64.RawURLEncoding.EncodeToString(secret) + "\n")
	if err := errors.Join(err, temp.Close()); err != nil {
		return err
	}
	if err := os.Link(temp.Name(), file); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

func hashToken(token string) []byte {
	sum := sha256.Sum256([]byte(token))
	return sum[:]
}

// ownersTokens are the store's tokens and the owner's. The owner's is not in the store: whoever can read it can
// change the store.
type ownersTokens struct {
	tokens
	hash []byte
}

// tokens has another name than the interface it is, one of whose methods has that name.
type tokens = store.Tokens

// TokenByHash implements store.Tokens.
func (t *ownersTokens) TokenByHash(ctx context.Context, hash []byte) (*store.Token, error) {
	if subtle.ConstantTimeCompare(hash, t.hash) == 1 {
		return &store.Token{ID: api.OwnersToken, Name: "owner", Hash: bytes.Clone(t.hash), Scopes: []string{"submit", "read", "cancel", "fly", "admin"}}, nil
	}
	return t.tokens.TokenByHash(ctx, hash)
}

// decideTokens decides whether everybody needs a token, and refuses a server that others could reach without one.
func (s *Server) decideTokens(ctx context.Context) (require bool, err error) {
	o := &s.options
	tokens, err := s.store.Tokens(ctx)
	if err != nil {
		return false, err
	}
	live := false
	for _, t := range tokens {
		live = live || (t.RevokedAt.IsZero() && (t.ExpiresAt.IsZero() || t.ExpiresAt.After(time.Now())))
	}
	if o.AllowOpen {
		return o.RequireToken, nil
	}
	open := ""
	for _, address := range o.Listen {
		if !loopback(address) {
			open = "listening on " + address
		}
	}
	if u, err := url.Parse(o.PublicURL); open == "" && err == nil && u.Host != "" && !loopbackHost(u.Hostname()) {
		open = "being reachable as " + o.PublicURL
	}
	if open != "" && !live {
		return false, fault.Say(fault.Invalid, "%s would let everybody who can reach this server run commands on it, because no token exists. "+
			"Make one first with: DAYFLY_DATA_DIR=%s %s tokens create NAME --scope admin. Or listen on %s only. "+
			"Or, if something else keeps strangers out, give --allow-open.", open, o.DataDir, cmp.Or(o.Program, "dayfly"), DefaultListen)
	}
	if open != "" && o.TLS == nil && !strings.HasPrefix(o.PublicURL, "https:") {
		s.logger.Warn("tokens and files travel unencrypted: there is no TLS, and public_url does not name a proxy that adds it")
	}
	return o.RequireToken || open != "", nil
}

// loopback reports whether an address to listen on can only be reached from this computer.
func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	return err == nil && loopbackHost(host)
}

func loopbackHost(host string) bool {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
