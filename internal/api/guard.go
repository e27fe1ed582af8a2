package api

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/binary"
	"hash/crc32"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
)

// The limits of the guard.
const (
	tokenLife     = 800 * time.Millisecond // how long a token is taken at its word; a revoked one is refused after that
	maxTokens     = 10_000                 // tokens remembered
	maxAddresses  = 10_000                 // addresses that failures are counted for
	failureBurst  = 30                     // failures that an address is allowed at once
	failureRefill = time.Second            // after which it is allowed one more
)

// guard knows the tokens of the API. It asks the store for each at most about once a second, so that checking a token
// costs next to nothing and a revoked one is refused within the second. Who keeps presenting tokens that do not exist
// is told to wait.
type guard struct {
	tokens store.Tokens
	now    func() time.Time

	mu       sync.Mutex
	seen     map[[sha256.Size]byte]*seenToken
	failures map[netip.Addr]time.Time // when the address's failures so far will be forgiven
}

// seenToken is what the store said of a token.
type seenToken struct {
	token   *store.Token
	checked time.Time
}

func newGuard(tokens store.Tokens, now func() time.Time) *guard {
	return &guard{tokens: tokens, now: now, seen: map[[sha256.Size]byte]*seenToken{}, failures: map[netip.Addr]time.Time{}}
}

// live returns what is known of a token. fault.Unauthenticated if there is no such live token; fault.Exhausted if the
// address has presented too many of those.
func (g *guard) live(ctx context.Context, token, address string) (*store.Token, error) {
	hash := sha256.Sum256([]byte(token))
	now := g.now()
	if known := g.recall(hash, now); known != nil {
		return live(known, now)
	}
	if mistyped(token) {
		return nil, fault.Say(fault.Unauthenticated, "this token is mistyped: a part of it is missing or wrong")
	}
	found, err := g.tokens.TokenByHash(ctx, hash[:])
	if fault.Of(err) == fault.NotFound || err == nil && subtle.ConstantTimeCompare(found.Hash, hash[:]) != 1 {
		g.forget(hash)
		return nil, g.unknown(address)
	}
	if err != nil {
		return nil, err
	}
	g.remember(hash, found, now)
	return live(found, now)
}

// name returns the name of a token that was seen a moment ago, or "".
func (g *guard) name(token string) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if s := g.seen[sha256.Sum256([]byte(token))]; s != nil {
		return s.token.Name
	}
	return ""
}

// unknown refuses a token that does not exist, and says so to an address that presents many. That a token exists is
// found out first, because good ones come from the same address as bad ones: that of a proxy, or of an office.
func (g *guard) unknown(address string) error {
	from, now := addressOf(address), g.now()
	if !g.allowed(from, now) {
		return fault.Say(fault.Exhausted, "too many unknown tokens have come from this address; try again in a moment")
	}
	g.failed(from, now)
	return errToken()
}

func errToken() error {
	return fault.Say(fault.Unauthenticated, "this token is not valid: it is unknown, has expired or was revoked")
}

// live returns a token that is neither expired nor revoked.
func live(t *store.Token, now time.Time) (*store.Token, error) {
	if !t.RevokedAt.IsZero() || !t.ExpiresAt.IsZero() && !now.Before(t.ExpiresAt) {
		return nil, errToken()
	}
	return t, nil
}

// recall returns what is remembered of a token, if that is recent enough to go by, or nil.
func (g *guard) recall(hash [sha256.Size]byte, now time.Time) *store.Token {
	g.mu.Lock()
	defer g.mu.Unlock()
	if s := g.seen[hash]; s != nil && now.Sub(s.checked) < tokenLife {
		return s.token
	}
	return nil
}

func (g *guard) remember(hash [sha256.Size]byte, t *store.Token, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.seen) >= maxTokens {
		clear(g.seen)
	}
	g.seen[hash] = &seenToken{t, now}
}

func (g *guard) forget(hash [sha256.Size]byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.seen, hash)
}

// forgetAll makes the next request of every token ask the store.
func (g *guard) forgetAll() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, s := range g.seen {
		s.checked = time.Time{}
	}
}

// allowed reports whether an address may present one more token that nobody knows.
func (g *guard) allowed(from netip.Addr, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.failures[from].Sub(now) < failureBurst*failureRefill
}

func (g *guard) failed(from netip.Addr, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.failures) >= maxAddresses {
		for address, until := range g.failures {
			if until.Before(now) {
				delete(g.failures, address)
			}
		}
		if len(g.failures) >= maxAddresses {
			clear(g.failures) // so many at once are one attacker with many addresses, whom counting does not stop
		}
	}
	until := g.failures[from]
	if until.Before(now) {
		until = now
	}
	g.failures[from] = until.Add(failureRefill)
}

// addressOf returns whom failures are counted for: an IPv4 address, or the network that one customer of an IPv6
// provider has. Headers that proxies add are not believed, because anybody can send them.
func addressOf(remote string) netip.Addr {
	a, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Addr{}
	}
	ip := a.Addr().Unmap()
	if ip.Is6() {
		if network, err := ip.Prefix(64); err == nil {
			return network.Addr()
		}
	}
	return ip
}

// tokenPrefix tells a person, or a scanner for leaked secrets, what a token is.
const tokenPrefix = "dfy_"

// tokenEncoding has no characters at which a double click stops.
func tokenEncoding() *base32.Encoding {
	return base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)
}

// newToken returns a random token: the prefix, 32 random bytes, and a checksum by which a scanner knows it from
// other text.
func newToken() string {
	secret := make([]byte, 32, 36)
	rand.Read(secret) // never fails: see crypto/rand
	secret = binary.BigEndian.AppendUint32(secret, crc32.ChecksumIEEE(secret))
	return tokenPrefix + tokenEncoding().EncodeToString(secret)
}

// mistyped reports whether a token has the prefix of ours but not its checksum: part of it is missing or wrong.
func mistyped(token string) bool {
	body, ours := strings.CutPrefix(token, tokenPrefix)
	if !ours {
		return false
	}
	raw, err := tokenEncoding().DecodeString(body)
	return err != nil || len(raw) != 36 || crc32.ChecksumIEEE(raw[:32]) != binary.BigEndian.Uint32(raw[32:])
}
