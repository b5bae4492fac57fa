package confmaster

import (
	"lockstep/internal/trust"
	lockstep "lockstep/proto"
)

// methodRoles says who may make which call. What a Change alters decides further (changeRole).
func methodRoles() map[string][]trust.Role {
	looks := []trust.Role{trust.Viewer, trust.Confmaster}
	return map[string][]trust.Role{
		lockstep.Confmaster_Status_FullMethodName:      looks,
		lockstep.Confmaster_WorkLog_FullMethodName:     looks,
		lockstep.Confmaster_Settings_FullMethodName:    looks,
		lockstep.Confmaster_Events_FullMethodName:      looks,
		lockstep.Confmaster_Levels_FullMethodName:      looks,
		lockstep.Confmaster_RaiseLevel_FullMethodName:  {trust.Admin}, // nobody can take it back
		lockstep.Confmaster_OpenWeb_FullMethodName:     {trust.Viewer},
		lockstep.Confmaster_CreateGroup_FullMethodName: {trust.Admin},
		lockstep.Confmaster_Change_FullMethodName:      {trust.Operator},
		lockstep.Confmaster_Switchover_FullMethodName:  {trust.Operator, trust.KVNode},
		lockstep.Confmaster_Join_FullMethodName:        {trust.Replicator},
		lockstep.Peer_Raft_FullMethodName:              {trust.Confmaster},
		lockstep.Peer_Opine_FullMethodName:             {trust.Confmaster},
		lockstep.Confmaster_DrillState_FullMethodName:  looks,
		lockstep.Confmaster_EndDrill_FullMethodName:    {trust.Operator},
		lockstep.Drills_Faults_FullMethodName:          {trust.Viewer},
		lockstep.Drills_End_FullMethodName:             {trust.Operator},
	}
}

// changeRole is the role that a change needs: what can lose data, and who may do what, is for an admin.
func changeRole(request *lockstep.ChangeRequest) trust.Role {
	switch c := request.GetChange().(type) {
	case *lockstep.ChangeRequest_Recover, *lockstep.ChangeRequest_Create:
		return trust.Admin
	case *lockstep.ChangeRequest_Settings:
		for _, item := range c.Settings.GetSettings() {
			switch item.GetName() {
			case "requirepass", "protected-mode", "aclfile":
				return trust.Admin
			}
			if item.GetKind() == "user" {
				return trust.Admin
			}
		}
	}
	return trust.Operator
}

// denied tells of a call that its caller may not make.
func (s *service) denied(caller trust.Caller, method, reason string) {
	s.node.logger.Warn("call refused", "who", caller.String(), "call", method, "reason", reason)
}
