package sqlite

// The names of the operations that write, in the names of their failpoints and in messages.
const (
	opSubmit       = "submit"        // Submit
	opStart        = "start"         // Move out of created
	opMove         = "move"          // any other Move: a cancel
	opStoreInput   = "store_input"   // StoreInput
	opLaunch       = "launch"        // Launch
	opPromote      = "promote"       // Promote
	opClaim        = "claim"         // Claim
	opEnd          = "end"           // End
	opNote         = "note"          // Note
	opMoveMachine  = "move_machine"  // MoveMachine
	opAdoptMachine = "adopt_machine" // AdoptMachine
	opAddRunner    = "add_runner"    // AddRunner
	opMoveRunner   = "move_runner"   // MoveRunner
	opAddToken     = "add_token"     // AddToken
	opRevokeToken  = "revoke_token"  // RevokeToken
	opBoot         = "boot"          // Boot, and again for each further thousand of held jobs
	opTouch        = "touch"         // Touch
	opDelete       = "delete"        // Delete
)

// Ops returns the name of every operation that writes. For each there are two failpoints, store.OP.before and
// store.OP.after.
func Ops() []string {
	return []string{
		opSubmit, opStart, opMove, opStoreInput, opLaunch, opPromote, opClaim, opEnd, opNote, opMoveMachine,
		opAdoptMachine, opAddRunner,
		opMoveRunner, opAddToken, opRevokeToken, opBoot, opTouch, opDelete,
	}
}
