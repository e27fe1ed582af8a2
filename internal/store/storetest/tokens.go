package storetest

import (
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
)

func tokensCases() []testCase {
	return []testCase{
		{"ATokenIsFoundByItsHash", tokenFound},
		{"ANameHasOneLiveToken", tokenName},
		{"ARevokedTokenIsStillFound", tokenRevoked},
		{"TokensAreListedFromTheNewest", tokenList},
	}
}

// addToken adds a token of this name that expires at a time, or never.
func (k *kit) addToken(name string, expires time.Time) *store.Token {
	k.Helper()
	id := k.id("tok")
	t := &store.Token{ID: id, Name: name, Hash: hash(id), Scopes: []string{"submit", "read"}, CreatedAt: k.now(), ExpiresAt: expires}
	k.must(k.store.AddToken(k.ctx, t))
	return t
}

// token finds a token by its hash.
func (k *kit) token(t *store.Token) *store.Token {
	k.Helper()
	found, err := k.store.TokenByHash(k.ctx, t.Hash)
	k.must(err)
	return found
}

func tokenFound(k *kit) {
	forever, passing := k.addToken("a", time.Time{}), k.addToken("b", epoch().Add(time.Hour))
	for range 2 {
		k.wantEqual("a token that never expires", k.token(forever), forever)
		k.wantEqual("a token that expires", k.token(passing), passing)
		k.reopen()
	}
	_, err := k.store.TokenByHash(k.ctx, forever.Hash[:31])
	k.wantKind("part of a hash", err, fault.NotFound)
}

func tokenName(k *kit) {
	first := k.addToken("ci", time.Time{})
	second := *first
	second.ID, second.Hash = "tok_other", hash("other")
	k.wantKind("a second token of the name", k.store.AddToken(k.ctx, &second), fault.Conflict)
	_, err := k.store.TokenByHash(k.ctx, second.Hash)
	k.wantKind("the token that was not added", err, fault.NotFound)
	k.must(k.store.RevokeToken(k.ctx, "ci", k.now()))
	expired := k.addToken("ci", epoch().Add(5*time.Second))
	for k.now().Before(expired.ExpiresAt) {
	}
	k.addToken("ci", time.Time{})
}

func tokenRevoked(k *kit) {
	byName, byID, other := k.addToken("a", time.Time{}), k.addToken("b", time.Time{}), k.addToken("c", time.Time{})
	at := k.now()
	k.must(k.store.RevokeToken(k.ctx, "a", at))
	k.must(k.store.RevokeToken(k.ctx, byID.ID, at))
	byName.RevokedAt, byID.RevokedAt = at, at
	for _, want := range []*store.Token{byName, byID, other} {
		k.wantEqual("the token", k.token(want), want)
	}
	k.wantKind("revoking it again by name", k.store.RevokeToken(k.ctx, "a", k.now()), fault.NotFound)
	k.wantKind("revoking it again by id", k.store.RevokeToken(k.ctx, byID.ID, k.now()), fault.NotFound)
	k.wantEqual("when it was revoked", k.token(byID).RevokedAt, at)
}

func tokenList(k *kit) {
	a, b := k.addToken("a", time.Time{}), k.addToken("b", epoch().Add(time.Hour))
	a.RevokedAt = k.now()
	k.must(k.store.RevokeToken(k.ctx, "a", a.RevokedAt))
	c := k.addToken("a", time.Time{})
	got, err := k.store.Tokens(k.ctx)
	k.must(err)
	k.wantEqual("number of tokens", len(got), 3)
	for i, want := range []*store.Token{c, b, a} {
		k.wantEqual("a token", got[i], want)
	}
}
