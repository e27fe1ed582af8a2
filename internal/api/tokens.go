package api

import (
	"context"
	"crypto/sha256"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
)

func (a *API) addTokens() {
	add(a, route{
		method: http.MethodPost, path: "/v1/tokens", id: "create-token", status: http.StatusCreated, body: reflect.TypeFor[tokenRequest](),
		summary: "Create a token", text: "The answer holds the token itself, which is not kept and cannot be had again.",
	}, a.createToken)
	add(a, route{method: http.MethodGet, path: "/v1/tokens", id: "list-tokens", summary: "List tokens, newest first"}, a.listTokens)
	add(a, route{
		method: http.MethodDelete, path: "/v1/tokens/{id}", id: "revoke-token", status: http.StatusNoContent,
		summary: "Revoke a token, by its id or name", text: "It is refused within a second, and streams that were opened with it end.",
	}, a.revokeToken)
}

// tokenRequest asks for a token.
type tokenRequest struct {
	Name      string           `json:"name" minLength:"1" maxLength:"64" doc:"What it is for. No two live tokens have the same name."`
	Scopes    []string         `json:"scopes,omitempty" maxItems:"7" doc:"What it may do: submit, read, cancel, shell, fly, hire, admin. Default: submit, read and cancel."`
	ExpiresIn *dayfly.Duration `json:"expires_in,omitempty" doc:"When it ends by itself. Default: never."`
}

// token is a token as it is shown.
type token struct {
	ID        string     `json:"id"`
	Name      string     `json:"name"`
	Scopes    []string   `json:"scopes"`
	CreatedAt time.Time  `json:"created_at"`
	ExpiresAt *time.Time `json:"expires_at,omitempty"`
	RevokedAt *time.Time `json:"revoked_at,omitempty"`
	Secret    string     `json:"token,omitempty" doc:"The token itself, in the answer that creates it and never again."`
}

func showToken(t *store.Token) token {
	return token{ID: t.ID, Name: t.Name, Scopes: t.Scopes, CreatedAt: t.CreatedAt.UTC(), ExpiresAt: moment(t.ExpiresAt), RevokedAt: moment(t.RevokedAt)}
}

// tokenName keeps names apart from ids and from what a shell or a URL would take for something else.
var tokenName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._@-]{0,63}$`)

type createTokenInput struct{ caller }

type createTokenOutput struct {
	CacheControl string `header:"Cache-Control"`
	Body         token
}

func (a *API) createToken(ctx context.Context, in *createTokenInput) (*createTokenOutput, error) {
	wanted, err := readJSON(in.w, in.r, maxSmallBody, a.decoders.token)
	if err != nil {
		return nil, err
	}
	if !tokenName.MatchString(wanted.Name) {
		return nil, fault.Field("name", "must be 1 to 64 letters, digits, '.', '_', '@' and '-', beginning with a letter or digit")
	}
	if len(wanted.Scopes) == 0 {
		wanted.Scopes = []string{scopeSubmit, scopeRead, scopeCancel}
	}
	for _, s := range wanted.Scopes {
		if !slices.Contains([]string{scopeSubmit, scopeRead, scopeCancel, scopeShell, scopeFly, scopeHire, scopeAdmin}, s) {
			return nil, fault.Field("scopes", "%.40q is not a scope; submit, read, cancel, shell, fly, hire and admin are", s)
		}
	}
	if wanted.ExpiresIn != nil && *wanted.ExpiresIn == 0 {
		return nil, fault.Field("expires_in", "must be longer than nothing; leave it out for a token that does not end by itself")
	}
	secret, now := newToken(), a.now()
	hash := sha256.Sum256([]byte(secret))
	t := &store.Token{ID: "tok_" + uuid.NewString(), Name: wanted.Name, Hash: hash[:], Scopes: slices.Compact(slices.Sorted(slices.Values(wanted.Scopes))), CreatedAt: now}
	if wanted.ExpiresIn != nil {
		t.ExpiresAt = now.Add(time.Duration(*wanted.ExpiresIn))
	}
	if err := a.tokens.AddToken(ctx, t); err != nil {
		if fault.Of(err) == fault.Conflict {
			return nil, fault.Say(fault.Conflict, "there is a live token named %s; revoke it, or take another name", t.Name)
		}
		return nil, err
	}
	a.logger.InfoContext(ctx, "a token was created", "token", t.ID, "name", t.Name, "scopes", t.Scopes)
	shown := showToken(t)
	shown.Secret = secret
	return &createTokenOutput{"no-store", shown}, nil
}

type listTokensInput struct {
	caller
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"1000" doc:"How many at most."`
	Cursor string `query:"cursor" maxLength:"200" doc:"The next_cursor of the page before."`
}

// tokenList is one page of tokens.
type tokenList struct {
	Items      []token `json:"items"`
	NextCursor string  `json:"next_cursor,omitempty" doc:"To pass as cursor for the next page; missing when this is the last."`
}

type listTokensOutput struct {
	Body tokenList
}

func (a *API) listTokens(ctx context.Context, in *listTokensInput) (*listTokensOutput, error) {
	c := cursor{list: "tokens"}
	after, err := c.open(in.Cursor)
	if err != nil {
		return nil, err
	}
	all, err := a.tokens.Tokens(ctx)
	if err != nil {
		return nil, err
	}
	if after != "" {
		all = all[slices.IndexFunc(all, func(t *store.Token) bool { return t.ID == after })+1:]
	}
	out := &listTokensOutput{tokenList{Items: []token{}}}
	for _, t := range all[:min(in.Limit, len(all))] {
		out.Body.Items = append(out.Body.Items, showToken(t))
	}
	if len(all) > in.Limit {
		out.Body.NextCursor = c.seal(all[in.Limit-1].ID)
	}
	return out, nil
}

type revokeTokenInput struct {
	caller
	ID string `path:"id" maxLength:"128" doc:"Its id or its name."`
}

func (a *API) revokeToken(ctx context.Context, in *revokeTokenInput) (*struct{}, error) {
	if err := a.tokens.RevokeToken(ctx, in.ID, a.now()); err != nil {
		if fault.Of(err) == fault.NotFound {
			return nil, fault.Say(fault.NotFound, "there is no live token %s", in.ID)
		}
		return nil, err
	}
	a.guard.forgetAll()
	a.logger.InfoContext(ctx, "a token was revoked", "token", in.ID)
	return nil, nil
}
