package agent

import (
	"context"

	"github.com/dayfly-run/dayfly/internal/wire"
)

// Address is where a call goes and on whose authority.
type Address struct {
	URL     string // the server's base URL
	Attempt string // the attempt that the call is about
	Token   string // what opens it: the bootstrap token of a claim, the session token of everything else
}

// Link carries calls to the server, each once: whether to repeat one is the caller's to decide, and every call of the
// protocol may be repeated.
//
// Implementations are safe for concurrent use, obey the context, end every call after a time of their own, and retain
// nothing of their arguments once they have returned. When the server answered with an error, theirs is a *[Refusal]
// of the kind that the server named. Every other failure, such as no answer or one that makes no sense, is
// fault.Unavailable: then the call may or may not have been carried out.
type Link interface {
	// Claim asks for the attempt. The assignment it returns has been checked to be complete.
	Claim(ctx context.Context, to Address, c *wire.ClaimRequest) (*wire.Assignment, error)
	// Beat says that the attempt lives, and waits for an order for about as long as b asks for.
	Beat(ctx context.Context, to Address, b *wire.Heartbeat) (*wire.HeartbeatAnswer, error)
	// Log stores a piece of output. fault.Conflict: it begins beyond the end of what is stored; the refusal's Stored
	// says where that is.
	Log(ctx context.Context, to Address, c *wire.LogChunk) (*wire.LogAnswer, error)
	// Artifacts asks where to put outputs. The answer has one upload for each.
	Artifacts(ctx context.Context, to Address, r *wire.ArtifactRequest) (*wire.ArtifactAnswer, error)
	// Result reports how the attempt ended.
	Result(ctx context.Context, to Address, r *wire.Result) error
}

var (
	_ Link = (*Direct)(nil)
	_ Link = (*Shared)(nil)
)
