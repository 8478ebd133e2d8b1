"""Tools that an agent may call: calls found in its text, tools by name, and their results.

tools = Toolbox([PythonTool(Sandbox.detect()), SearchTool(open_search("wiki.index"))])
call = find_call(text, tools.names)
if call is not None:
    text = text[: call.end] + render(tools.run(call).text)
"""

from rmas.tools.index import Index, Passage
from rmas.tools.limits import Completed, Limits
from rmas.tools.python import PythonTool
from rmas.tools.results import render
from rmas.tools.sandbox import Sandbox, SandboxError
from rmas.tools.search import SearchTool, Tavily, open_search
from rmas.tools.tags import Call, find_call, find_unclosed
from rmas.tools.toolbox import Answer, FunctionTool, Tool, Toolbox, ToolError

__all__ = [
    "Answer",
    "Call",
    "Completed",
    "FunctionTool",
    "Index",
    "Limits",
    "Passage",
    "PythonTool",
    "Sandbox",
    "SandboxError",
    "SearchTool",
    "Tavily",
    "Tool",
    "ToolError",
    "Toolbox",
    "find_call",
    "find_unclosed",
    "open_search",
    "render",
]
