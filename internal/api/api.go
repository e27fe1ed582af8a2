package api

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/blob"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/api/strict"
	"github.com/dayfly-run/dayfly/internal/engine"
	"github.com/dayfly-run/dayfly/internal/joblog"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/ticket"
	"github.com/dayfly-run/dayfly/internal/wire"
)

// Engine is what the API asks of the engine. [engine.Engine] says of each method which kinds of error it returns; all
// are safe for concurrent use.
type Engine interface {
	Changer
	Reader
	Watcher
	Agents
	Commands
	Accounts
	Machines
	Pools
}

// Changer is the part that changes jobs.
type Changer interface {
	// Submit adds a job and returns when it is durable; replayed: an earlier submission with the same key made it.
	Submit(ctx context.Context, s *engine.Submission) (job *store.Job, replayed bool, err error)
	// Start moves a created job on to its queue.
	Start(ctx context.Context, id string) (*store.Job, error)
	// Cancel asks for a job's end and returns when the wish is durable.
	Cancel(ctx context.Context, id string) (*store.Job, error)
	// Retry adds a new job like one that has ended, or finds the one that an earlier call with the same key has added.
	// key is an Idempotency-Key, or "".
	Retry(ctx context.Context, id, key string) (job *store.Job, replayed bool, err error)
	// Delete removes a job that has ended, with all that belongs to it.
	Delete(ctx context.Context, id string) error
	// InputStored records an uploaded input of a created job.
	InputStored(ctx context.Context, jobID string, in store.Input) error
}

// Reader is the part that shows them.
type Reader interface {
	// Job returns a job with everything that belongs to it.
	Job(ctx context.Context, id string) (*store.Job, error)
	// Jobs lists jobs, newest first. more tells that there may be others behind them.
	Jobs(ctx context.Context, q *store.Query) (jobs []*store.Job, more bool, err error)
	// Events returns up to limit events of a job after a Seq.
	Events(ctx context.Context, id string, after int64, limit int) ([]*dayfly.Event, error)
	// Machines lists machines, newest first.
	Machines(ctx context.Context, q *store.MachineQuery) ([]*store.Machine, error)
	// Why explains why a job is where it is.
	Why(ctx context.Context, id string) (*dayfly.Why, error)
}

// Watcher is the part that tells when there is something new to show.
type Watcher interface {
	// Watch begins to watch a job. changed returns a channel that is closed when something happens to the job; it is
	// taken before reading. stop ends the watch.
	Watch(id string) (changed func() <-chan struct{}, stop func())
	// WatchEnd is the same for the job's end alone.
	WatchEnd(id string) (ended func() <-chan struct{}, stop func())
}

// Agents is the machines' part. Each call is authorized by the token it brings, which the engine checks; package wire
// says what each means.
type Agents interface {
	// Claim gives an attempt to the machine that calls first.
	Claim(ctx context.Context, token string, c *wire.ClaimRequest) (*wire.Assignment, error)
	// Beats takes heartbeats and waits for an order to one of the attempts.
	Beats(ctx context.Context, b *wire.Beats) (*wire.BeatsAnswer, error)
	// Log stores one chunk of output. With fault.Conflict the answer holds the offset that is wanted.
	Log(ctx context.Context, token string, c *wire.LogChunk) (*wire.LogAnswer, error)
	// Artifacts says where to put outputs.
	Artifacts(ctx context.Context, token string, r *wire.ArtifactRequest) (*wire.ArtifactAnswer, error)
	// Result accepts an attempt's result and returns when it is durable.
	Result(ctx context.Context, token string, r *wire.Result) error
	// KeepArtifact holds up an attempt's result until done is called, so that an artifact can be put into its place.
	KeepArtifact(ctx context.Context, attempt string) (done func(), err error)
}

// Commands is the part for running commands, and for those who count them.
type Commands interface {
	// Progress takes what a running command says of itself.
	Progress(ctx context.Context, jobToken string, p *wire.Progress) error
	// JobOf returns the job that a running command's token may read.
	JobOf(ctx context.Context, jobToken string) (jobID string, err error)
	// InputURL returns where the machine of an attempt can GET one of its inputs.
	InputURL(ctx context.Context, token, name string) (string, error)
	// Counts returns how many unfinished jobs there are, by lane and state.
	Counts(ctx context.Context) ([]store.Count, error)
}

// Machines is the part for who looks into the machines of jobs.
type Machines interface {
	// Enter returns the way into the machine of a job, for a time at most.
	Enter(ctx context.Context, id string, most time.Duration) (*engine.Entrance, error)
	// Release has the machine destroyed that is kept of a job.
	Release(ctx context.Context, id string) (*store.Job, error)
}

var _ Engine = (*engine.Engine)(nil)

// Options are what an API is made of. Engine, Logs, Blobs, Tokens and BaseURL are required.
type Options struct {
	Engine Engine
	Logs   *joblog.Store
	Blobs  blob.Store
	Direct blob.Signer // where downloads are sent to, at the backend of Blobs; nil: they go through the server
	Key    ticket.Key
	Tokens store.Tokens

	// Hired returns the machines that programs have hired, newest first, to be shown with those of jobs. nil: there are none.
	Hired func() []dayfly.Machine

	// Fleets returns the runners that programs share. nil: there are none.
	Fleets func() []dayfly.FleetStatus

	// RequireToken asks everybody for a token. Without it, who sends none may do everything, and the host that a
	// request names must be this computer: see checkHost.
	RequireToken bool
	// FromMachine reports whether a request came to an address that is there for machines: it then needs a token whatever
	// RequireToken says, and may name any host. nil: none did.
	FromMachine func(*http.Request) bool
	// BaseURL returns the public base URL for whoever made the request; for nil, the one that holds for everybody.
	BaseURL func(*http.Request) string
	Limits  Limits

	Version string                      // to show
	Logger  *slog.Logger                // default: discards
	Ready   func(context.Context) error // whether jobs can be taken; default: always
	Metrics *prometheus.Registry        // where to register metrics, served at /metrics; nil: none
	Now     func() time.Time            // default: time.Now
}

// Limits bound what clients may use at once. Zero is the default.
type Limits struct {
	Streams int   // requests that wait for something to happen; default 4096
	Uploads int   // files being received; default 256
	Upload  int64 // bytes of one input; default 64 GiB
}

// API is the HTTP interface. Make it with [New].
type API struct {
	engine  Engine
	logs    *joblog.Store
	blobs   blob.Store
	direct  blob.Signer
	key     ticket.Key
	tokens  store.Tokens
	baseURL func(*http.Request) string
	limits  Limits
	version string
	logger  *slog.Logger
	ready   func(context.Context) error
	now     func() time.Time

	hired        func() []dayfly.Machine
	fleets       func() []dayfly.FleetStatus
	requireToken bool
	fromMachine  func(*http.Request) bool
	guard        *guard
	origins      *http.CrossOriginProtection
	router       *router
	huma         huma.API
	decoders     decoders
	measures     *measures
	streams      slots
	uploads      slots
	strangers    slots
}

// decoders read the bodies that clients and agents send.
type decoders struct {
	spec      *strict.Decoder[dayfly.JobSpec]
	token     *strict.Decoder[tokenRequest]
	claim     *strict.Decoder[wire.ClaimRequest]
	heartbeat *strict.Decoder[wire.Heartbeat]
	beats     *strict.Decoder[wire.Beats]
	artifacts *strict.Decoder[wire.ArtifactRequest]
	result    *strict.Decoder[wire.Result]
	progress  *strict.Decoder[wire.Progress]
	batch     *strict.Decoder[wire.Batch]
}

// New returns an API.
func New(o Options) (*API, error) {
	if o.Engine == nil || o.Logs == nil || o.Blobs == nil || o.Tokens == nil || o.BaseURL == nil {
		return nil, fmt.Errorf("api: %w: Engine, Logs, Blobs, Tokens and BaseURL are required", fault.Invalid)
	}
	o.setDefaults()
	a := &API{
		engine: o.Engine, logs: o.Logs, blobs: o.Blobs, direct: o.Direct, key: o.Key, tokens: o.Tokens, baseURL: o.BaseURL,
		limits: o.Limits, version: o.Version, logger: o.Logger, ready: o.Ready, now: o.Now,
		requireToken: o.RequireToken, fromMachine: o.FromMachine, hired: o.Hired, fleets: o.Fleets,
		guard:   newGuard(o.Tokens, o.Now),
		origins: http.NewCrossOriginProtection(),
		decoders: decoders{
			spec:      strict.NewDecoder[dayfly.JobSpec](),
			token:     strict.NewDecoder[tokenRequest](),
			claim:     strict.NewDecoder[wire.ClaimRequest](),
			heartbeat: strict.NewDecoder[wire.Heartbeat](),
			beats:     strict.NewDecoder[wire.Beats](),
			artifacts: strict.NewDecoder[wire.ArtifactRequest](),
			result:    strict.NewDecoder[wire.Result](),
			progress:  strict.NewDecoder[wire.Progress](),
			batch:     strict.NewDecoder[wire.Batch](),
		},
		streams: make(slots, o.Limits.Streams),
		uploads: make(slots, o.Limits.Uploads), strangers: make(slots, maxStrangers),
	}
	var err error
	if a.measures, err = newMeasures(o.Metrics, o.Engine, a); err != nil {
		return nil, fmt.Errorf("api: registering metrics: %w", err)
	}
	a.router = newRouter(a)
	a.huma = newHuma(a, o.Version)
	a.addJobs()
	a.addShell()
	a.addStreams()
	a.addMachines()
	a.addCosts()
	a.addTokens()
	a.addService(o.Metrics)
	a.addBlobs()
	a.addAgents()
	a.describe(o.Metrics != nil)
	return a, a.router.check()
}

func (o *Options) setDefaults() {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Ready == nil {
		o.Ready = func(context.Context) error { return nil }
	}
	if o.FromMachine == nil {
		o.FromMachine = func(*http.Request) bool { return false }
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Limits.Streams == 0 {
		o.Limits.Streams = 4096
	}
	if o.Limits.Uploads == 0 {
		o.Limits.Uploads = 256
	}
	if o.Limits.Upload == 0 {
		o.Limits.Upload = 64 << 30
	}
}

// Handler returns the handler of all routes.
func (a *API) Handler() http.Handler { return http.HandlerFunc(a.serve) }

// slots bound how many of something there are at once.
type slots chan struct{}

// take takes a slot and returns what gives it back, or a refusal.
func (s slots) take(what string) (release func(), err error) {
	select {
	case s <- struct{}{}:
		return func() { <-s }, nil
	default:
		return nil, fault.Say(fault.Unavailable, "there are already %d %s, which is the limit; try again in a moment", cap(s), what)
	}
}
