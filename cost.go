package dayfly

import "github.com/dayfly-run/dayfly/machine"

// Money is an amount of US dollars, exact to a millionth. In JSON it is a string such as "0.50".
type Money = machine.Money

// Currency is the only one there is.
const Currency = "USD"

// Cost is what a job or an attempt has cost. What an attempt costs is counted from the wish for its machine until its
// provider has confirmed that the machine is gone, by the price of the moment in which it was launched.
type Cost struct {
	Amount   Money        `json:"amount" doc:"So far, or in all. What is not known is not part of it."`
	Currency string       `json:"currency"`
	Unknown  bool         `json:"unknown,omitempty" doc:"Set when nobody knows what a machine costs: of this attempt, or of one of the job's."`
	Estimate bool         `json:"estimate" doc:"Whether it may still grow: a machine is not confirmed to be gone."`
	Hourly   machine.Rate `json:"hourly,omitempty" doc:"What the machine costs per hour, in dollars; of a job, its last attempt's."`
	PricedOn string       `json:"priced_on,omitempty" doc:"The day on which the price was read. Missing when it was configured."`
}

// Quote says what a job would cost, without running it.
type Quote struct {
	Spec   JobSpec `json:"spec" doc:"The job with every default filled in."`
	Offers []Offer `json:"offers" doc:"Where it may run, in the order in which that is tried."`
}

// Offer is what a job would cost on one provider.
type Offer struct {
	Provider string        `json:"provider"`
	Region   string        `json:"region,omitempty"`
	Currency string        `json:"currency"`
	Unknown  bool          `json:"unknown,omitempty" doc:"Set when nobody knows what a machine costs there; then there are no amounts."`
	Hourly   *machine.Rate `json:"hourly,omitempty" doc:"What one machine costs per hour, in dollars."`
	PricedOn string        `json:"priced_on,omitempty" doc:"The day on which the price was read. Missing when it was configured."`
	Lifetime Duration      `json:"lifetime" doc:"How long one machine may exist at most."`
	Machines int           `json:"machines" doc:"How many machines there may be at most, one after the other; refusals for want of room are not counted."`
	Most     *Money        `json:"most,omitempty" doc:"The most that the job can cost, with its cap."`
	Uncapped *Money        `json:"uncapped,omitempty" doc:"The most that it could cost without its cap; missing when it has none."`
	Refused  string        `json:"refused,omitempty" doc:"Why it would not run there, in a sentence: its max_cost does not pay for a start, or nobody knows the price. Then machines is 0."`
	Waits    string        `json:"waits,omitempty" doc:"Why it would have to wait now, in a sentence."`
}

// Costs are what jobs have cost, by day.
type Costs struct {
	Currency string      `json:"currency"`
	Today    string      `json:"today" doc:"The day it is, UTC, by the server's wall clock."`
	Items    []DayCost   `json:"items" doc:"By day, queue and provider."`
	Limits   []CostLimit `json:"limits" doc:"The daily limits there are."`
}

// DayCost is what the jobs of a queue on a provider have cost on one day.
type DayCost struct {
	Day      string `json:"day" doc:"As 2006-01-02, UTC."`
	Queue    string `json:"queue"`
	Provider string `json:"provider"`
	Amount   Money  `json:"amount" doc:"So far, that of running machines included."`
	Running  Money  `json:"running" doc:"What of it is of machines that are not confirmed to be gone."`
	Attempts int    `json:"attempts" doc:"How many attempts that cost something ended on the day."`
	Unknown  int    `json:"unknown,omitempty" doc:"How many attempts ended on the day of which nobody knows what they cost."`
}

// CostLimit is a daily limit.
type CostLimit struct {
	Queue   string `json:"queue,omitempty" doc:"Missing for the limit of all queues together."`
	Daily   Money  `json:"daily"`
	Today   Money  `json:"today" doc:"What counts against it today."`
	Stopped bool   `json:"stopped" doc:"Whether it is reached: no further attempt is launched before the next day."`
}
