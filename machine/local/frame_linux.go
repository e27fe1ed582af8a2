package local

import (
	"time"
	"unicode/utf8"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

// protocolVersion is that of the frames. A provider hands new machines only to a supervisor of its own version.
const protocolVersion = 1

// maxFrame is the size of a frame, its newline included, in either direction.
const maxFrame = 3 << 20

// maxSpec is the size of a specification in a frame, its files not counted, which are limited by themselves.
const maxSpec = 1 << 20

// request is a frame to a supervisor. One of the fields besides ID is set.
type request struct {
	ID      uint64          `json:"id"` // names the answer; 0: none is wanted
	Home    *string         `json:"home,omitempty"`
	Create  *createRequest  `json:"create,omitempty"`
	Destroy string          `json:"destroy,omitempty"`
	Signal  *signalRequest  `json:"signal,omitempty"`
	Suspend *suspendRequest `json:"suspend,omitempty"`
	Enter   *enterRequest   `json:"enter,omitempty"` // on a connection of its own, with three open files
	Hello   bool            `json:"hello,omitempty"` // also asks whether anybody is there
}

// createRequest asks for a machine.
type createRequest struct {
	Spec *machine.Spec `json:"spec"`
	// Deadline is when the request becomes void, by clock(). A supervisor that was stopped must not make a machine
	// that has since been made, and destroyed, elsewhere.
	Deadline time.Duration `json:"deadline"`
}

// signalRequest asks to send a signal to a machine's first process.
type signalRequest struct {
	Machine string `json:"machine"`
	Signal  string `json:"signal"` // such as "SIGTERM"
}

// suspendRequest asks to halt a machine, or to let it go on.
type suspendRequest struct {
	Machine string `json:"machine"`
	Resume  bool   `json:"resume,omitempty"`
}

// enterRequest asks to run a further command in a machine. Standard input, output and error come with the frame, as
// open files. The command ends with the connection at the latest.
type enterRequest struct {
	Machine  string            `json:"machine"`
	Args     []string          `json:"args"`
	Env      map[string]string `json:"env,omitempty"`
	Dir      string            `json:"dir,omitempty"`
	Terminal bool              `json:"terminal,omitempty"`
}

// answer is a frame from a supervisor.
type answer struct {
	ID      uint64        `json:"id"` // that of the request; 0: nobody asked
	Hello   *greeting     `json:"hello,omitempty"`
	Made    *made         `json:"made,omitempty"`
	Exit    *machine.Exit `json:"exit,omitempty"` // of a further command
	Error   *problem      `json:"error,omitempty"`
	Changed []change      `json:"changed,omitempty"` // machines whose state has changed
}

// made answers a create, with what the provider does not know.
type made struct {
	Exists  bool      `json:"exists,omitempty"` // there was a machine of that name; its record says the rest
	Created time.Time `json:"created,omitzero"`
	Ended   *ending   `json:"ended,omitempty"` // it could not be started, or was very quick
}

// change tells of a machine. What it does not say stands in the record, or the machine is gone.
type change struct {
	Name  string  `json:"name"`
	Ended *ending `json:"ended,omitempty"`
}

// greeting says who answers.
type greeting struct {
	Protocol int    `json:"protocol"`
	Program  string `json:"program"`
}

// problem is an error on its way through a frame.
type problem struct {
	Kind    fault.Kind `json:"kind"`
	Message string     `json:"message"`
}

func newProblem(err error) *problem {
	return &problem{Kind: fault.Of(err), Message: shorten(err.Error(), maxMessage)}
}

// shorten returns a text, or as many whole characters of its beginning as fit into so many bytes, with a mark.
func shorten(text string, most int) string {
	const mark = "…"
	if len(text) <= most {
		return text
	}
	end := most - len(mark)
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + mark
}

// Error returns the message, which tells the kind as well.
func (p *problem) Error() string { return p.Message }

// Unwrap returns the kind.
func (p *problem) Unwrap() error { return p.Kind }
