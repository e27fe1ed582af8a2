package wire

// These are the messages by which a program brings itself to a server, once for each build, so that machines which the server's
// providers make can run it:
//
//	GET /programs/v1/SHA256                      -> ProgramState     how much of it is there
//	PUT /programs/v1/SHA256?name=&size=&from=    -> ProgramState     its bytes from there on
//
// SHA256 is the digest of the program's file in 64 hexadecimal digits. A token needs the scope "hire". Several processes may
// send one program at the same time; each sends what is missing when it is its turn. 409 says that it is not, or that the
// bytes go on elsewhere: ask how much is there. What was sent is kept for two minutes after a connection has broken.
//
// Where a message has a machine.Program its File is ProgramScheme and the digest, never a path: the server runs no other file
// for anybody. fault.NotFound says that it does not have the program, any more perhaps; send it, and ask again.

// ProgramPrefix is where the paths of these messages begin.
const ProgramPrefix = "/programs/v1/"

// ProgramScheme begins the File of a machine.Program that is named by its digest.
const ProgramScheme = "sha256:"

// MaxProgram is how large a program may be, in bytes.
const MaxProgram = 512 << 20

// ProgramState says how much of a program a server has.
type ProgramState struct {
	Whole bool  `json:"whole"`          // it can be run
	Have  int64 `json:"have"`           // bytes of it that have come, while it is not whole
	Busy  bool  `json:"busy,omitempty"` // somebody else is sending it
}
