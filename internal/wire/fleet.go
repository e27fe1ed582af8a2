package wire

import (
	"encoding/base64"
	"encoding/json"
	"net/url"
	"strings"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

// These are the messages by which programs share warm runners of a server's providers: a fleet. To a parent a fleet is
// one more provider, so it is spoken to as package hire's are, and what it calls a machine is a reservation: a runner
// that is its own from when Create is answered until it is destroyed, which gives it back.
//
//	PUT    /fleets/v1/PROVIDER/FLEET                            FleetTerms                   what runners there are to be; renewed by repeating it
//	POST   /fleets/v1/PROVIDER/FLEET/machines                   Reserve -> machine.Machine   Create; or 202 and FleetWait: ask again, or why it did not boot
//	GET    /fleets/v1/PROVIDER/FLEET/machines?owner=&holder=    -> Hired                     List; renews the holder's lease
//	GET    /fleets/v1/PROVIDER/FLEET/machines/ID                -> machine.Machine           Get
//	DELETE /fleets/v1/PROVIDER/FLEET/machines/ID                                             Destroy: gives the runner back
//	POST   /fleets/v1/PROVIDER/FLEET/programs                   machine.Program              CheckProgram
//	GET    /fleets/v1/PROVIDER/FLEET/gateway                    -> HireGateway               Gateway
//
// A token needs the scope "hire". The runners themselves call with tokens of their own:
//
//	POST   /runners/v1/MACHINE                                  FleetCall -> FleetAnswer
//
// What a reservation says of itself as a machine:
//
//   - Created is when the runner was handed out, and Expires when its machine ends, both by the server's clock. So their
//     difference is how long the parent has it at most.
//   - It is creating as long as it waits in line and running when the runner is handed out. It is exited when the machine has
//     ended, with the machine's Exit, and when the runner has not come or could not follow the invitation: then with an Exit of
//     Code 1 whose Message says why. It is gone when the runner is free again.
//   - A list holds the reservations of one holder. What it does not hold is not known to be over: a server that was started
//     anew hears from the runners whom they serve, and the link between runner and parent is the truth meanwhile.
//
// The last terms of a holder replace his earlier ones, and a Min of 0 withdraws what he has announced. Two programs of one
// Build are the same, whatever their files are called.
const (
	FleetPrefix       = "/fleets/v1/"
	FleetRunnerPrefix = "/runners/v1/"
)

// FleetTerms say what a fleet's runners are to be. Runners of other terms than somebody's are not lent to him; of a fleet
// with several, which are then those of several builds, all runners count together.
type FleetTerms struct {
	Holder string `json:"holder"` // as in Hire
	// Build is the build of the program that runs in them, as link.Hello has it.
	Build string `json:"build"`
	// Spec is as in Hire. Its Name and Owner are not used.
	Spec machine.Spec `json:"spec"`

	Min       int   `json:"min"`     // runners that are kept without anybody who needs them, as long as somebody announces it
	Max       int   `json:"max"`     // runners at once
	IdleMS    int64 `json:"idle_ms"` // how long one beyond Min is kept when nobody has it
	SingleUse bool  `json:"single_use,omitempty"`
}

// Reserve asks for a runner. The invitation that it is to follow is in the environment of the Spec, as in that of a machine
// which is made for its parent alone. Asking again by the same name is the same reservation.
type Reserve struct {
	FleetTerms
	WaitMS int64 `json:"wait_ms"` // how long the answer may take, up to MaxHold
}

// FleetWait says that there is no runner yet. Who does not ask again within a few seconds loses his place in the line.
type FleetWait struct {
	ID  string `json:"id"`  // of the reservation that waits, to be destroyed by who gives up
	Why string `json:"why"` // a sentence
	// Failed is why the runner that was made for it did not boot. The reservation is over then. It is no error of the request, since that
	// could not be told from a server that is unavailable itself, which is asked again.
	Failed *Problem `json:"failed,omitempty"`
}

// FleetHome is what a runner of a fleet is started with: where the server is, and what it is there itself. In a machine's
// environment it stands where an invitation would.
type FleetHome struct {
	URL     string `json:"url"`     // the server's, as the machine sees it
	Machine string `json:"machine"` // the machine's name
	Token   string `json:"token"`   // speaks for that machine alone
}

// fleetHomePrefix tells it from an invitation.
const fleetHomePrefix = "fleet:"

// IsFleetHome reports whether a word is that of a runner of a fleet, rather than an invitation.
func IsFleetHome(word string) bool { return strings.HasPrefix(word, fleetHomePrefix) }

// Encode returns it as one word. It holds a secret.
func (h *FleetHome) Encode() string {
	text, err := json.Marshal(h)
	if err != nil {
		panic(err) // strings can be encoded
	}
	return fleetHomePrefix + base64.RawURLEncoding.EncodeToString(text)
}

// ParseFleetHome is the inverse of Encode. fault.Invalid: the word is not one.
func ParseFleetHome(word string) (*FleetHome, error) {
	refused := fault.Say(fault.Invalid, "what this runner was started with is not what a server of a fleet starts runners with")
	body, ok := strings.CutPrefix(word, fleetHomePrefix)
	if !ok {
		return nil, refused
	}
	text, err := base64.RawURLEncoding.DecodeString(body)
	if err != nil {
		return nil, refused
	}
	var h FleetHome
	if err := json.Unmarshal(text, &h); err != nil {
		return nil, refused
	}
	base, err := url.Parse(h.URL)
	if err != nil || base.Host == "" || h.Machine == "" || h.Token == "" {
		return nil, refused
	}
	return &h, nil
}

// MaxFleetCall is how large a message of a runner's may be, in bytes.
const MaxFleetCall = 16 << 10

// FleetCall is what a runner of a fleet says of itself: when it is free and waits for somebody; at once when it is handed an
// invitation, before it follows that; and every few seconds while it serves somebody. It ends when the answer is
// fault.Unauthenticated, fault.Denied, fault.NotFound, fault.Conflict, fault.Invalid or fault.Unsupported, and goes on calling
// after any other failure.
type FleetCall struct {
	Instance string `json:"instance"`          // the process: a second one of the same machine is refused
	Build    string `json:"build"`             // of the program, as link.Hello has it: of another than was asked for none is lent
	Number   int64  `json:"number"`            // grows with each call, so that an earlier one which is still open is known to be over
	Serving  string `json:"serving,omitempty"` // the reservation whose parent it serves; "": it is free
	After    string `json:"after,omitempty"`   // of a free one: the reservation that it had last
	Broken   string `json:"broken,omitempty"`  // why it could not follow After's invitation
	WaitMS   int64  `json:"wait_ms,omitempty"` // of a free one: how long the answer may take, up to MaxHold
}

// FleetAnswer says what the runner is to do: follow an invitation, ask again at once (neither), come to the end of what it does
// for its parent, or exit.
type FleetAnswer struct {
	Reservation string `json:"reservation,omitempty"`
	Invitation  string `json:"invitation,omitempty"`
	Leave       bool   `json:"leave,omitempty"` // while it serves: to its parent it says that it is about to leave
	End         bool   `json:"end,omitempty"`
	Why         string `json:"why,omitempty"` // a sentence, of Leave and End
}
