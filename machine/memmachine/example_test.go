package memmachine_test

import (
	"context"
	"fmt"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/memmachine"
)

// A create that is carried out and answered with a timeout is the failure that loses machines. Asking again with the
// same spec finds the machine.
func Example() {
	provider := memmachine.New(nil)
	cloud := provider.Cloud()
	defer cloud.Close()
	cloud.Fail(memmachine.Create, memmachine.ExecuteThenTimeout).Times(1)

	ctx := context.Background()
	spec := &machine.Spec{Name: "df-1", Owner: "example", Lifetime: time.Hour, Command: []string{"work"}}
	_, err := provider.Create(ctx, spec)
	fmt.Println("first: ", fault.Of(err))
	again, err := provider.Create(ctx, spec)
	fmt.Println("second:", again.Name, err)
	fmt.Println("there are", len(cloud.Machines()))
	// Output:
	// first:  unavailable
	// second: df-1 <nil>
	// there are 1
}
