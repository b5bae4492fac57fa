package explore

import "lockstep/internal/mutant"

// Planted is a set of rules that are switched off together, and a scope in which that shows.
type Planted struct {
	Off   []mutant.Name
	Scope Scope
	Safe  bool // the search is complete and finds nothing: another rule alone is enough there
}

// AllPlanted returns every planted error that the explorer is to find. Only with the build tag mutants can it.
func AllPlanted() []Planted {
	one := func(off mutant.Name, change func(*Scope)) Planted {
		return Planted{Off: []mutant.Name{off}, Scope: three("", change)}
	}
	crashed := func(s *Scope) { s.Epochs, s.Crashes, s.Frames, s.SlowFollow = 3, 1, 3, true }
	return []Planted{
		one(mutant.Figure8, func(s *Scope) {}),
		one(mutant.OldRuleAsTold, func(s *Scope) { s.Reconfigurations, s.SlowTold = 2, true }),
		one(mutant.CountByName, func(s *Scope) { s.Epochs, s.Wipes = 3, 1 }),
		one(mutant.NoJointRule, func(s *Scope) { s.Reconfigurations = 1 }),
		one(mutant.NoRewind, func(s *Scope) {}),
		one(mutant.RewindToCommit, func(s *Scope) { s.SlaveCommit = true }),
		one(mutant.AckBeforeSync, func(s *Scope) { s.Crashes, s.SlowSlaves = 1, true }),
		one(mutant.LeadOtherLife, crashed),
		{Off: []mutant.Name{mutant.FenceEqual, mutant.LifeUnchecked}, Scope: three("", crashed)},
		{Off: []mutant.Name{mutant.FenceEqual}, Scope: three("", crashed), Safe: true},
		{Off: []mutant.Name{mutant.LifeUnchecked}, Scope: three("", crashed), Safe: true},
		one(mutant.AttachUnpromised, func(s *Scope) { s.Copies, s.Epochs, s.Reconfigurations = 3, 3, 1 }),
		one(mutant.CommitBeforeRewind, func(s *Scope) { s.SlaveCommit, s.SlowHello = true, true }),
		one(mutant.LongestWins, func(s *Scope) {}),
		one(mutant.FewerAnswers, func(s *Scope) {}),
		one(mutant.EstablishSuperseded, func(s *Scope) { s.Reconfigurations = 1 }),
		one(mutant.PromiseUnsaved, func(s *Scope) { s.Crashes, s.SlowFollow = 1, true }),
		one(mutant.OldRuleOnly, func(s *Scope) { s.Reconfigurations = 1 }),
		one(mutant.ReconfigureElecting, func(s *Scope) { s.Reconfigurations = 1 }),
		one(mutant.LateLead, func(s *Scope) {}),
		one(mutant.FencedLeads, func(s *Scope) {}),
		one(mutant.FencedFollows, func(s *Scope) {}),
		one(mutant.ElectByProvisional, func(s *Scope) { s.Reconfigurations = 1 }),
		one(mutant.CountWiped, func(s *Scope) { s.Epochs, s.Wipes = 3, 1 }),
		one(mutant.ReportEarly, func(s *Scope) { s.Reconfigurations = 1 }),
		one(mutant.ReportByOld, func(s *Scope) { s.Reconfigurations = 1 }),
		one(mutant.BaseIsProvisional, func(s *Scope) { s.Reconfigurations = 2 }),
		one(mutant.CountUnsynced, func(s *Scope) { s.Crashes = 1 }),
		one(mutant.AcksOutliveReign, func(s *Scope) { s.Copies, s.Frames = 3, 5 }),
		one(mutant.CountLearners, func(s *Scope) { s.Members = 2 }),
		one(mutant.RewindEarly, func(s *Scope) { s.SlowFollow = true }),
	}
}
