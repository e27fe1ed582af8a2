package engine

import (
	"context"
	"net/http"
	"time"

	"github.com/dayfly-run/dayfly/blob"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/ticket"
	"github.com/dayfly-run/dayfly/internal/wire"
)

// inputURL returns where an agent gets an input: from the store's backend itself where that can be, unless it asks for the
// detour by the server, whose base URL for the agent is home. What arrives is checked by the agent either way.
func (e *Engine) inputURL(ctx context.Context, home string, in *store.Input, detour bool) (string, error) {
	if e.options.Direct == nil || detour {
		return e.key.URL(home, ticket.File{Method: http.MethodGet, Key: in.Blob, Expires: time.Now().Add(fileTTL), Here: true}), nil
	}
	signed, err := e.options.Direct.Sign(ctx, http.MethodGet, in.Blob, &blob.SignOptions{Life: fileTTL})
	if err != nil {
		return "", err
	}
	return signed.URL, nil
}

// outputPlace returns where an agent puts an output. It is the store's backend itself only if that refuses any other bytes
// than those of which the agent has told size and checksum: the URL is good for longer than the attempt, and what was
// accepted must stay what it is.
func (e *Engine) outputPlace(ctx context.Context, home, key string, want *wire.ArtifactWant) (wire.Upload, error) {
	if e.options.Direct != nil && want.SHA256 != "" {
		signed, err := e.options.Direct.Sign(ctx, http.MethodPut, key, &blob.SignOptions{Life: fileTTL, Size: want.Size, SHA256: want.SHA256})
		if err != nil {
			return wire.Upload{}, err
		}
		if signed.Bound {
			return wire.Upload{Method: signed.Method, URL: signed.URL, Headers: signed.Headers}, nil
		}
	}
	return wire.Upload{Method: http.MethodPut, URL: e.key.URL(home, ticket.File{
		Method: http.MethodPut, Key: key, Expires: time.Now().Add(fileTTL), Limit: max(1, want.Size),
	})}, nil
}
