package machinetest

import "testing"

// testCase is one sentence of the specification.
type testCase struct {
	name string
	run  func(t *testing.T, s *subject)
}

// cases returns the specification, in the order of a machine's life.
func cases() []testCase {
	return []testCase{
		// Create
		{"CreateIsIdempotentInName", createIsIdempotentInName},
		{"CreateByANewProcessReturnsTheSameMachine", createByANewProcessReturnsTheSameMachine},
		{"CreateAgainAfterExitReturnsTheExitedMachine", createAgainAfterExitReturnsTheExitedMachine},
		{"CreateAfterDestroyMakesANewMachine", createAfterDestroyMakesANewMachine},
		{"ConcurrentCreatesOfOneNameMakeOne", concurrentCreatesOfOneNameMakeOne},
		{"ForeignOwnersNameIsConflict", foreignOwnersNameIsConflict},
		{"SpecsThatEveryProviderRefusesAreInvalid", specsThatEveryProviderRefusesAreInvalid},
		{"SpecsThatThisProviderRefusesLeaveNothingBehind", specsThatThisProviderRefusesLeaveNothingBehind},
		{"SpecIsNotRetainedOrModified", specIsNotRetainedOrModified},
		{"CancelingAfterCreateLeavesTheMachineAlone", cancelingAfterCreateLeavesTheMachineAlone},

		// What a machine carries
		{"LabelsSurvive", labelsSurvive},
		{"TheLongestNamesAndLabelsAreKept", theLongestNamesAndLabelsAreKept},
		{"EndDateIsCarried", endDateIsCarried},
		{"MachinesLookTheSameFromEverywhere", machinesLookTheSameFromEverywhere},
		{"ReturnedMachinesAreTheCallersOwn", returnedMachinesAreTheCallersOwn},

		// Get and List
		{"GetOfUnknownIsNotFound", getOfUnknownIsNotFound},
		{"ListFindsWhatANewProcessNeverCreated", listFindsWhatANewProcessNeverCreated},
		{"ListIsByOwner", listIsByOwner},
		{"ListOfAnOwnerWithoutMachinesIsEmpty", listOfAnOwnerWithoutMachinesIsEmpty},
		{"ListHoldsExitedMachines", listHoldsExitedMachines},

		// Life and end
		{"StatesOnlyMoveForward", statesOnlyMoveForward},
		{"AgentIsToldWhatItHasComeFor", agentIsToldWhatItHasComeFor},
		{"EnvironmentReachesWhatRuns", environmentReachesWhatRuns},
		{"SizeIsEnforced", sizeIsEnforced},
		{"ExitStatusIsReported", exitStatusIsReported},
		{"ExitStatusSurvivesTheCreator", exitStatusSurvivesTheCreator},
		{"LifetimeEndsTheMachine", lifetimeEndsTheMachine},
		{"LifetimeEndsTheMachineAfterItsCreatorIsGone", lifetimeEndsTheMachineAfterItsCreatorIsGone},

		// Destroy
		{"DestroyedIsGoneFromListAndGet", destroyedIsGoneFromListAndGet},
		{"DestroyEndsWhatRunsInTheMachine", destroyEndsWhatRunsInTheMachine},
		{"DestroyIsRepeatable", destroyIsRepeatable},
		{"DestroyOfUnknownIsNoError", destroyOfUnknownIsNoError},
		{"DestroyRemovesAnExitedMachine", destroyRemovesAnExitedMachine},
		{"DestroyByANewProcessWorks", destroyByANewProcessWorks},

		// Further commands
		{"ExecReturnsTheStatusAndBothStreams", execReturnsTheStatusAndBothStreams},
		{"ExecOfNoProgramIsStatus127", execOfNoProgramIsStatus127},
		{"ExecReadsItsInput", execReadsItsInput},
		{"ExecTalksBackAndForth", execTalksBackAndForth},
		{"ExecHasTheMachinesEnvironmentAndDirectory", execHasTheMachinesEnvironmentAndDirectory},
		{"ExecAsAnotherUser", execAsAnotherUser},
		{"ExecGivesATerminal", execGivesATerminal},
		{"ExecEndsWithItsContext", execEndsWithItsContext},
		{"ExecEndsWithTheMachine", execEndsWithTheMachine},
		{"ExecEndsAtTheEndOfTheLifetime", execEndsAtTheEndOfTheLifetime},
		{"ExecOfWhatDoesNotRunIsRefused", execOfWhatDoesNotRunIsRefused},
		{"ExecEndsWhenNobodyTakesItsOutput", execEndsWhenNobodyTakesItsOutput},
		{"ExecLosesNoOutput", execLosesNoOutput},
		{"CommandsAtOnceDoNotMeet", commandsAtOnceDoNotMeet},

		// Signals, halts and output
		{"SignalReachesTheFirstProcess", signalReachesTheFirstProcess},
		{"SignalsThatCannotBeSentAreRefused", signalsThatCannotBeSentAreRefused},
		{"ASuspendedMachineGoesOnWhereItWas", aSuspendedMachineGoesOnWhereItWas},
		{"ASuspendedMachineStaysSoWithoutItsCreator", aSuspendedMachineStaysSoWithoutItsCreator},
		{"ASuspendedMachineEndsAtItsEndDate", aSuspendedMachineEndsAtItsEndDate},
		{"WhatDoesNotRunIsNotSuspended", whatDoesNotRunIsNotSuspended},
		{"LogsHoldBothStreams", logsHoldBothStreams},
		{"LogsOutliveTheMachinesEnd", logsOutliveTheMachinesEnd},
		{"LogsAreFollowedToTheEnd", logsAreFollowedToTheEnd},
		{"FollowingEndsWithItsContextAndItsWriter", followingEndsWithItsContextAndItsWriter},
		{"LogsKeepAMebibyte", logsKeepAMebibyte},
		{"LogsOfUnknownAreNotFound", logsOfUnknownAreNotFound},

		// Before there is a machine
		{"PrepareMakesNoMachine", prepareMakesNoMachine},
		{"PrepareMayBeCalledAtOnce", prepareMayBeCalledAtOnce},
		{"PrepareRefusesWhatCreateRefuses", prepareRefusesWhatCreateRefuses},
		{"FilesAreThereBeforeAnythingRuns", filesAreThereBeforeAnythingRuns},
		{"AProgramIsBroughtAlong", aProgramIsBroughtAlong},
		{"AProgramThatIsNotThereIsRefused", aProgramThatIsNotThereIsRefused},

		// All together
		{"TwoMachinesAtOnceDoNotMeet", twoMachinesAtOnceDoNotMeet},
		{"CallsMayBeConcurrent", callsMayBeConcurrent},
		{"ContextIsObeyed", contextIsObeyed},
		{"ContextIsObeyedDuringACall", contextIsObeyedDuringACall},
		{"WatchTellsOfCreateAndGone", watchTellsOfCreateAndGone},
		{"WatchBeginsWithWhatIsThere", watchBeginsWithWhatIsThere},
		{"WatchEndsWithItsContext", watchEndsWithItsContext},
	}
}
