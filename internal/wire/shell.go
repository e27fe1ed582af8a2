package wire

import "github.com/dayfly-run/dayfly/machine"

// A shell is a command in the machine of a job, run beside it on a person's behalf: GET /v1/jobs/ID/shell, upgraded to a
// WebSocket. Text messages hold a ShellMessage as JSON, and binary ones what goes through the command's standard streams,
// behind one byte that says which. The client begins with Open.
//
//	client                                server
//	  {"open": {…}}            ──────>
//	                           <──────      {"started": {…}}
//	  \x00 input, {"resize": …} ─────>
//	                           <──────      \x01 output, \x02 error output
//	  {"closed": true}         ──────>      its input has ended
//	                           <──────      {"exit": {…}} or {"problem": {…}}, and the end
//
// The command ends when the connection does.

// ShellStream is the first byte of a binary message.
type ShellStream byte

// The streams of a command.
const (
	ShellInput  ShellStream = 0
	ShellOutput ShellStream = 1
	ShellErrors ShellStream = 2
)

// The limits of a shell.
const (
	MaxShellMessage = 256 << 10 // bytes of a message, in either direction
	ShellChunk      = 32 << 10  // bytes of a stream in one message, as both sides send them
)

// ShellMessage is a text message. Exactly one of the fields is set.
type ShellMessage struct {
	Open   *ShellOpen   `json:"open,omitempty"`   // from the client, first
	Resize *ShellWindow `json:"resize,omitempty"` // from the client: its window has another size
	Closed bool         `json:"closed,omitempty"` // from the client: its input has ended

	Started *ShellStarted `json:"started,omitempty"` // from the server, first
	Exit    *machine.Exit `json:"exit,omitempty"`    // from the server, last: how the command ended
	Problem *Problem      `json:"problem,omitempty"` // from the server, last: why it did not
}

// ShellOpen says what to run.
type ShellOpen struct {
	Command  []string    `json:"command,omitempty"`  // none: the machine's best shell
	Terminal bool        `json:"terminal,omitempty"` // it gets a terminal
	Window   ShellWindow `json:"window,omitzero"`    // of that
	Term     string      `json:"term,omitempty"`     // what kind of terminal it is, such as "xterm-256color"
}

// ShellWindow is the size of a window, in characters.
type ShellWindow struct {
	Columns int `json:"columns"`
	Rows    int `json:"rows"`
}

// ShellStarted says where the command runs, and for how long at most.
type ShellStarted struct {
	Machine  string   `json:"machine"`
	Provider string   `json:"provider"`
	Command  []string `json:"command"`
	Kept     bool     `json:"kept,omitempty"` // the job has failed and its machine is kept
	LeftMS   int64    `json:"left_ms"`        // until the session ends, however busy it is
}
