// The theme's buttons that open a part of the navigation have no name for those who do not see their arrow.
document.addEventListener("DOMContentLoaded", () => {
  for (const summary of document.querySelectorAll("nav summary")) summary.ariaLabel ||= "Show or hide the pages below";
});
