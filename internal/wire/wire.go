package wire

import (
	"encoding/json"
	"strconv"
	"strings"

	"github.com/dayfly-run/dayfly/machine"
)

// Version is the protocol's version. The agent sends it with the claim and the server refuses one it does not speak.
const Version = 1

// Limits of the protocol. Both sides enforce them.
//
// They are made to go together: a Result that keeps to each of them fits into MaxRequest, and so into a batch, without
// its Logs; those may fill what is left. That counts what JSON must escape, and every character that is not ASCII as
// an escape, which some encoders write. It does not count escapes that nobody needs, such as \u003c for "<".
const (
	MaxChunk         = 256 << 10 // bytes of output in one log chunk
	MaxBatchCalls    = 512       // calls in one batch
	MaxBatchBytes    = 4 << 20   // bytes of one batch request
	MaxResultValue   = 1 << 20   // bytes of the JSON a job returns through DAYFLY_RESULT, as it is sent
	MaxProgressText  = 256       // bytes of a progress line's text
	MaxArtifacts     = 1000      // artifacts of one attempt
	MaxArtifactName  = 1024      // bytes of an artifact's name, which holds no control characters
	MaxArtifactNames = 256 << 10 // bytes of the names of all artifacts of one attempt together
	MaxWarnings      = 20        // warnings of one attempt
	MaxSentence      = 1 << 10   // bytes of a result's message, of its exit's, and of each warning
	MaxRequest       = 2 << 20   // bytes of any other request
	DefaultLogLimit  = 64 << 20  // bytes kept of one attempt's output, both streams together
	DefaultHeartbeat = 5_000     // milliseconds between heartbeats
	MaxHold          = 30_000    // milliseconds for which a request is held open at most
	MaxSlots         = 128       // slots of one machine of a pool
)

// RunnerPrefix begins what an agent on a machine of a pool is given in place of an attempt: see "Machines of pools" in the
// package comment.
const RunnerPrefix = "rnr_"

// Slot returns what slot k of a machine of a pool claims by, where machine is what the machine was booted with: the first slot
// claims by that itself.
func Slot(machine string, k int) string {
	if k <= 1 {
		return machine
	}
	return machine + "." + strconv.Itoa(k)
}

// SlotOf takes apart what Slot returned. Anything else comes back whole, as the first slot of a machine that nobody has: so
// a slot has one id and no other.
func SlotOf(id string) (machine string, k int) {
	if i := strings.LastIndexByte(id, '.'); i >= 0 {
		if k, err := strconv.Atoi(id[i+1:]); err == nil && k <= MaxSlots && k > 1 && id == Slot(id[:i], k) {
			return id[:i], k
		}
	}
	return id, 1
}

// ClaimRequest is the body of POST /agent/v1/claim, authorized by the bootstrap token of the attempt.
type ClaimRequest struct {
	Attempt  string `json:"attempt"`  // the attempt to claim
	Instance string `json:"instance"` // the machine's name, or any stable name of the claimant; 1 to 128 bytes
	Nonce    string `json:"nonce"`    // random, made once per start of the claimant; 1 to 64 bytes
	Protocol int    `json:"protocol"` // Version
	Agent    string `json:"agent"`    // the agent's version, to show
	// Detour asks for inputs at the server, because another place that an earlier answer named could not be used.
	Detour bool `json:"detour,omitempty"`

	// The rest is for an agent on a machine of a pool.

	// WaitMS asks the server to hold the request open for so long, at most MaxHold, until there is an attempt. 0: it has one,
	// and wants the same answer again.
	WaitMS int64 `json:"wait_ms,omitempty"`
	// Done is the attempt whose result was accepted last: the machine has been made ready for another, unless Spoiled says,
	// in a sentence, why it cannot be.
	Done    string `json:"done,omitempty"`
	Spoiled string `json:"spoiled,omitempty"`
}

// Assignment answers a claim: the attempt is the claimant's, and this is what to do.
type Assignment struct {
	Job     string `json:"job"`
	Attempt string `json:"attempt"`
	Number  int    `json:"number"` // the attempt's number, from 1
	Fence   int64  `json:"fence"`  // of the claim; the tokens carry it

	Token    string `json:"token"`     // the session token, for every later call of this attempt
	JobToken string `json:"job_token"` // to pass on to the command as DAYFLY_TOKEN

	Name    string            `json:"name"` // the job's name
	Command []string          `json:"command"`
	Env     map[string]string `json:"env,omitempty"`
	Payload json.RawMessage   `json:"payload,omitempty"` // to write to the file DAYFLY_INPUT names
	Inputs  []Input           `json:"inputs,omitempty"`
	Outputs []string          `json:"outputs,omitempty"` // glob patterns relative to the working directory

	RunTimeoutMS  int64 `json:"run_timeout_ms"`  // until SIGTERM, from the start of the command; 0: none
	RunIsTotal    bool  `json:"run_is_total"`    // that limit is what was left of the job's total, not its run timeout
	RunIsCost     bool  `json:"run_is_cost"`     // that limit is what the job's cap on its cost pays for
	KillGraceMS   int64 `json:"kill_grace_ms"`   // from SIGTERM to SIGKILL
	HeartbeatMS   int64 `json:"heartbeat_ms"`    // how often to send one, give or take 20 %
	OrphanAfterMS int64 `json:"orphan_after_ms"` // how long to go on without an answer
	LogLimit      int64 `json:"log_limit"`       // bytes to keep of the output, both streams together
	// HashOutputs asks for the SHA256 of each ArtifactWant. Outputs can then be put where they are kept without a detour
	// by the server; an agent that does not give it puts them to the server.
	HashOutputs bool `json:"hash_outputs,omitempty"`
	// KeepMS is how long the agent stays after a failure whose report was accepted.
	KeepMS int64 `json:"keep_ms,omitempty"`
	// Wait says that there is no attempt yet for a machine of a pool: only OrphanAfterMS and Slots are set beside it.
	Wait bool `json:"wait,omitempty"`
	// Slots is into how many slots the machine of a pool is divided, at most MaxSlots; on every answer to a claim by it. 0 is 1.
	Slots int `json:"slots,omitempty"`
}

// Input is a file to put into the working directory before the command starts.
type Input struct {
	Name   string `json:"name"`   // a relative path, already checked to be local
	URL    string `json:"url"`    // to GET it from; carries its own authority
	Size   int64  `json:"size"`   // bytes
	SHA256 string `json:"sha256"` // lower-case hex; what arrives must match
}

// Phase is what an attempt is doing, as its agent says.
type Phase string

// The phases, in order.
const (
	Fetching  Phase = "fetching"  // inputs are being downloaded
	Running   Phase = "running"   // the command runs
	Finishing Phase = "finishing" // the command has ended; outputs are being uploaded
)

// Heartbeat is the body of POST /agent/v1/attempts/ID/heartbeat.
type Heartbeat struct {
	Phase    Phase     `json:"phase"`
	Progress *Progress `json:"progress,omitempty"` // when it has changed since the last heartbeat
	// WaitMS asks the server to hold the request open for so long, at most 30 seconds, unless it has an order.
	WaitMS int64 `json:"wait_ms"`
}

// Progress is what the command wrote last to the file DAYFLY_PROGRESS names.
type Progress struct {
	Fraction float64 `json:"fraction" minimum:"0" maximum:"1" doc:"How much is done, from 0 to 1."`
	Text     string  `json:"text,omitempty" maxLength:"256" doc:"What is being done, in the job's words."`
}

// HeartbeatAnswer answers a heartbeat.
type HeartbeatAnswer struct {
	// Order is "" to go on, or "stop": end the command now, with SIGTERM and then SIGKILL, and report the result.
	Order string `json:"order,omitempty"`
	// Reason says why to stop: Canceled or TimedOut. It becomes the result's Outcome.
	Reason Outcome `json:"reason,omitempty"`
}

// OrderStop is the order to end the command.
const OrderStop = "stop"

// Stream is one of the two outputs of a command.
type Stream string

// The streams.
const (
	Stdout Stream = "stdout"
	Stderr Stream = "stderr"
)

// LogChunk is a piece of one stream. POST /agent/v1/attempts/ID/logs carries one with Data as the raw body and the
// rest in the query; a batch carries it as JSON.
type LogChunk struct {
	Stream Stream `json:"stream"`
	Offset int64  `json:"offset"`         // of the first byte of Data, or of the gap
	Data   []byte `json:"data,omitempty"` // at most MaxChunk bytes
	TimeMS int64  `json:"time_ms"`        // when the agent read it, Unix milliseconds of its clock, to show
	// Gap is the number of bytes missing at Offset; then Data is empty and Why says in a sentence what happened.
	Gap int64  `json:"gap,omitempty"`
	Why string `json:"why,omitempty"`
}

// LogAnswer answers a LogChunk.
type LogAnswer struct {
	Stored int64 `json:"stored"` // the offset up to which the stream is stored
}

// ArtifactRequest is the body of POST /agent/v1/attempts/ID/artifacts: it asks where to put outputs.
type ArtifactRequest struct {
	Artifacts []ArtifactWant `json:"artifacts"` // at most MaxArtifacts
}

// ArtifactWant announces one output.
type ArtifactWant struct {
	Name string `json:"name"` // relative to the working directory, with forward slashes
	Size int64  `json:"size"` // bytes
	// SHA256 is of the bytes, in lower-case hex; "" if it is not known yet.
	SHA256 string `json:"sha256,omitempty"`
}

// ArtifactAnswer answers an ArtifactRequest, in the same order.
type ArtifactAnswer struct {
	Uploads []Upload `json:"uploads"`
}

// Upload says how to store one object: one request of this method to this URL with these headers.
type Upload struct {
	Method  string            `json:"method"`
	URL     string            `json:"url"`
	Headers map[string]string `json:"headers,omitempty"`
}

// Outcome is how an attempt ended, as its agent says.
type Outcome string

// The outcomes.
const (
	Succeeded Outcome = "succeeded" // the command exited with 0 and its outputs are stored
	Failed    Outcome = "failed"    // anything else
	TimedOut  Outcome = "timed_out" // the agent ended it at the run timeout
	Canceled  Outcome = "canceled"  // the agent ended it on the server's order
)

// Result is the body of POST /agent/v1/attempts/ID/result. It is repeated until it is accepted or refused; the same
// Result for the same attempt is accepted again.
type Result struct {
	Outcome Outcome `json:"outcome"`
	// Exit is the command's. When its program cannot be executed or does not exist, the code is 126 or 127, as in a
	// shell; when it was not started for another reason, there is none.
	Exit *machine.Exit `json:"exit,omitempty"`
	// Started is set when the command's program was started: only such an attempt counts against max_attempts.
	Started bool `json:"started"`
	// Reason refines Failed when the exit does not say it: a code such as "command_not_found" or "input_failed".
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"` // a sentence for a person

	Value     json.RawMessage `json:"value,omitempty"`    // what the command wrote to the file DAYFLY_RESULT names
	Progress  *Progress       `json:"progress,omitempty"` // the last one
	Artifacts []Artifact      `json:"artifacts,omitempty"`
	Warnings  []string        `json:"warnings,omitempty"` // sentences: "no file matched *.mp3"

	StdoutBytes int64 `json:"stdout_bytes"` // the final length of each stream
	StderrBytes int64 `json:"stderr_bytes"`

	// Logs are the last chunks of output, so that a short job needs one call for its output and its result. They
	// are stored before the result is accepted.
	Logs []LogChunk `json:"logs,omitempty"`

	FetchMS   int64  `json:"fetch_ms"`        // fetching inputs
	RunMS     int64  `json:"run_ms"`          // the command, start to end
	FinishMS  int64  `json:"finish_ms"`       // uploading outputs
	MaxRSSKB  int64  `json:"max_rss_kb"`      // largest resident set of any one process of the command; 0: not known
	UserMS    int64  `json:"user_ms"`         // CPU time in user mode
	SystemMS  int64  `json:"system_ms"`       // CPU time in the kernel
	StartedMS int64  `json:"started_at"`      // when the command started, Unix milliseconds of the agent's clock, to show
	AgentInfo string `json:"agent,omitempty"` // the agent's version, to show
}

// Artifact is an output that the agent has stored.
type Artifact struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"` // lower-case hex, of what was sent
}

// Batch is the body of POST /agent/v1/batch. The calls are independent: they may be carried out in any order and at
// the same time, except that calls naming the same attempt are carried out in the order given.
type Batch struct {
	Calls []BatchCall `json:"calls"` // at most MaxBatchCalls
}

// BatchCall is one call in a batch. Exactly one of the bodies is set.
type BatchCall struct {
	Attempt string        `json:"attempt"`
	Token   string        `json:"token"`
	Claim   *ClaimRequest `json:"claim,omitempty"`
	Log     *LogChunk     `json:"log,omitempty"`
	Result  *Result       `json:"result,omitempty"`
}

// BatchAnswer answers a Batch, in the order of its calls.
type BatchAnswer struct {
	Answers []CallAnswer `json:"answers"`
}

// CallAnswer is the answer to one call: an error, or the answer that belongs to the call; a Result has none.
type CallAnswer struct {
	Error      *Problem    `json:"error,omitempty"`
	Assignment *Assignment `json:"assignment,omitempty"`
	Log        *LogAnswer  `json:"log,omitempty"`
}

// Beats is the body of POST /agent/v1/heartbeats: the heartbeats of every attempt of one supervisor, in one request
// that is held open as long as the longest of them asks for, or until there is an order for any.
type Beats struct {
	WaitMS int64  `json:"wait_ms"`
	Beats  []Beat `json:"beats"` // at most MaxBatchCalls
}

// Beat is the heartbeat of one attempt among several.
type Beat struct {
	Attempt  string    `json:"attempt"`
	Token    string    `json:"token"`
	Phase    Phase     `json:"phase"`
	Progress *Progress `json:"progress,omitempty"`
}

// BeatsAnswer answers Beats. Attempts without an order or error are not mentioned.
type BeatsAnswer struct {
	Orders []BeatOrder `json:"orders,omitempty"`
}

// BeatOrder is what one attempt among several has to do.
type BeatOrder struct {
	Attempt string   `json:"attempt"`
	Order   string   `json:"order,omitempty"`
	Reason  Outcome  `json:"reason,omitempty"`
	Error   *Problem `json:"error,omitempty"` // stale_attempt and the like
}

// Problem is an error answer: a problem detail (RFC 9457) with our code.
type Problem struct {
	Status int    `json:"status"`
	Title  string `json:"title"`
	Code   string `json:"code"`   // a fault.Kind
	Detail string `json:"detail"` // a sentence
}
